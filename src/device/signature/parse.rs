//! The entry points in the text of a file of kernels, and the structures that they take by value. It uses the standard library alone,
//! so that the emulator's build script reads the files as the program does.

/// An entry point: `KERNEL void __launch_bounds__(bounds) name(params) {`.
pub struct Entry<'t> {
    pub name: &'t str,
    pub bounds: Option<&'t str>,
    pub params: Vec<Field<'t>>,
}

/// A parameter, or a field of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'t> {
    pub name: &'t str,
    /// The word for its type, or for what a pointer points at.
    pub of: &'t str,
    pub pointer: bool,
    /// What a pointer points at is only read.
    pub constant: bool,
}

/// The entry points of `text`, which has no comments.
///
/// # Errors
/// One is not of this form.
pub fn entries(text: &str) -> Result<Vec<Entry<'_>>, String> {
    text.split("KERNEL void").skip(1).map(entry).collect()
}

fn entry(text: &str) -> Result<Entry<'_>, String> {
    let odd = |what: &str| format!("{what} in `KERNEL void{}`", text.lines().next().unwrap_or_default());
    let (mut rest, mut bounds) = (text.trim_start(), None);
    if let Some(after) = rest.strip_prefix("__launch_bounds__") {
        let (inside, after) = closing(after.trim_start(), ['(', ')']).ok_or_else(|| odd("launch bounds that do not end"))?;
        (bounds, rest) = (Some(inside), after.trim_start());
    }
    let open = rest.find('(').ok_or_else(|| odd("no parameters"))?;
    let name = rest[..open].trim();
    if !is_word(name) {
        return Err(odd("no plain name"));
    }
    let (inside, _) = closing(&rest[open..], ['(', ')']).ok_or_else(|| odd("parameters that do not end"))?;
    let params = inside.split(',').map(str::trim).filter(|p| !p.is_empty());
    let params = params.map(|p| field(p).ok_or_else(|| format!("no call can give `{p}` to `{name}`"))).collect::<Result<_, _>>()?;
    Ok(Entry { name, bounds, params })
}

/// The fields of `struct name { .. }` in `text`, which has no comments. Its members may be functions (`MEMBER ..`) besides.
///
/// # Errors
/// There is no such structure, or it has a field that no call can give.
pub fn fields<'t>(text: &'t str, name: &str) -> Result<Vec<Field<'t>>, String> {
    let head = format!("struct {name} ");
    let at = text.find(&head).ok_or_else(|| format!("there is no structure `{name}`"))?;
    let (mut body, _) = closing(&text[at + head.len()..], ['{', '}']).ok_or_else(|| format!("the structure `{name}` does not end"))?;
    let mut all = vec![];
    while let Some(end) = body.find([';', '{']) {
        let statement = body[..end].trim();
        if body[end..].starts_with('{') && statement.starts_with("MEMBER ") {
            body = closing(&body[end..], ['{', '}']).ok_or_else(|| format!("a function of `{name}` does not end"))?.1;
            continue;
        }
        let odd = || format!("no call can give `{statement}` in `{name}`");
        let mut names = statement.split(',').map(str::trim);
        let first = names.next().and_then(field).ok_or_else(odd)?;
        all.push(first);
        // Of one type, after the first: names alone.
        for name in names {
            let plain = !first.pointer && is_word(name);
            all.push(plain.then_some(Field { name, ..first }).ok_or_else(odd)?);
        }
        body = &body[end + 1..];
    }
    Ok(all)
}

/// One declaration: `const T *__restrict__ x`, `int n`, `GRID_CONSTANT Gather g`.
fn field(text: &str) -> Option<Field<'_>> {
    let start = text.rfind(|c: char| !is_letter(c)).map_or(0, |at| at + 1);
    let (rest, name) = text.split_at(start);
    let mut words = rest.split(|c: char| c.is_whitespace() || c == '*').filter(|w| !w.is_empty());
    let constant = words.clone().any(|w| w == "const");
    let mut types = words.by_ref().filter(|w| !["const", "__restrict__", "GRID_CONSTANT"].contains(w));
    let (of, more, stars) = (types.next()?, types.next(), rest.matches('*').count());
    (is_word(name) && is_word(of) && more.is_none() && stars <= 1).then_some(Field { name, of, pointer: stars == 1, constant })
}

/// Where each member of these sizes begins, and the size of all, as C++ lays them out: each is aligned to its size.
pub fn places(sizes: impl IntoIterator<Item = usize>) -> (Vec<usize>, usize) {
    let (mut at, mut largest, mut places) = (0usize, 1, vec![]);
    for size in sizes {
        let place = at.next_multiple_of(size);
        (at, largest) = (place + size, largest.max(size));
        places.push(place);
    }
    (places, at.next_multiple_of(largest))
}

/// The headers that `text` includes and those that these include, each once, with the text itself.
pub fn with_headers(text: &str, read: impl Fn(&str) -> Option<String>) -> String {
    let (mut all, mut names, mut next) = (text.to_string(), vec![], 0);
    let included = |text: &str| -> Vec<String> {
        text.lines().filter_map(|l| Some(l.trim().strip_prefix("#include \"")?.strip_suffix('"')?.to_string())).collect()
    };
    names.extend(included(text));
    while let Some(name) = names.get(next).cloned() {
        if let Some(header) = (!names[..next].contains(&name)).then(|| read(&name)).flatten() {
            names.extend(included(&header));
            all += &header;
        }
        next += 1;
    }
    all
}

/// The text with a space in place of each comment.
pub fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        out.push_str(&rest[..at]);
        let (end, skip) = if rest[at..].starts_with("//") { ("\n", 0) } else { ("*/", 2) };
        rest = rest[at + 2..].find(end).map_or("", |n| &rest[at + 2 + n + skip..]);
        out.push(' ');
    }
    out + rest
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_letter)
}

/// What is between the bracket that `text` begins with and its partner, and what follows.
fn closing(text: &str, [open, close]: [char; 2]) -> Option<(&str, &str)> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += (c == open) as i32 - (c == close) as i32;
        if depth == 0 {
            return Some((text.get(1..at)?, &text[at + 1..]));
        }
    }
    None
}
