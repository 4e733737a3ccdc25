//! A kernel's parameters are read from its source, and a call that does not match is refused.

use sslmem::device::kernels::Source;
use sslmem::device::signature::{self, ArgKind};
use sslmem::var::Dtype;

#[test]
fn signatures_are_read_from_the_sources() {
    let text = r#"
// KERNEL void not_this(int x) {}
/* KERNEL void nor_this(T *x) {} */
template <int N> DEVICE void body(float *x) {}
KERNEL void __launch_bounds__(threads(2), 1) two_lines(T *y, const T *__restrict__ x, // the input
    u8 const *bytes, const u64 *table,
    const u32 *ids, float *loss, int add, u32 seed, float rate) {
  body<3>(loss);
}
KERNEL void plain() {}
"#;
    let parsed = signature::parse(&Source { name: "a.cu", text }).unwrap();
    assert_eq!(parsed.iter().map(|s| s.kernel).collect::<Vec<_>>(), ["two_lines", "plain"]);
    let params: Vec<_> = parsed[0].params.iter().map(|p| (p.name, p.kind.clone(), p.constant)).collect();
    let pointer = ArgKind::Pointer;
    let expected = [
        ("y", pointer(Dtype::Activation), false),
        ("x", pointer(Dtype::Activation), true),
        ("bytes", pointer(Dtype::U8), true),
        ("table", ArgKind::Words, true),
        ("ids", pointer(Dtype::U32), true),
        ("loss", pointer(Dtype::F32), false),
        ("add", ArgKind::I32, false),
        ("seed", ArgKind::U32, false),
        ("rate", ArgKind::F32, false),
    ];
    assert_eq!(params, expected);
    for (text, said) in [
        ("KERNEL void a(double x) {", "a.cu: no call can give `double x` to `a`"),
        ("KERNEL void a(const float **x) {", "a.cu: no call can give `const float **x` to `a`"),
        ("struct S { int n; }; KERNEL void a(S *s) {", "a.cu: no call can give `S *s` to `a`"),
        ("struct S { double n; }; KERNEL void a(S s) {", "a.cu: no call can give `double n` in `S` to `a`"),
        ("struct S { int n, *x; }; KERNEL void a(S s) {", "a.cu: no call can give `int n, *x` in `S` to `a`"),
        ("KERNEL void a(int) {", "a.cu: no call can give `int` to `a`"),
        ("KERNEL void a(int x", "a.cu: parameters that do not end in `KERNEL void a(int x`"),
        ("KERNEL void name##N(int x) {", "a.cu: no plain name in `KERNEL void name##N(int x) {`"),
    ] {
        let error = signature::parse(&Source { name: "a.cu", text }).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn a_call_that_does_not_fit_its_kernel_is_refused() {
    let text = "KERNEL void mix(T *y, const float *x, const u64 *table, int n, float rate) {}";
    let mix = &signature::parse(&Source { name: "mix.cu", text }).unwrap()[0];
    let pointer = ArgKind::Pointer;
    let fits = |dtype, first| mix.check(dtype, &[pointer(first), ArgKind::Null, pointer(Dtype::U32), ArgKind::I32, ArgKind::F32]).is_ok();
    assert!(fits(Dtype::Bf16, Dtype::Bf16) && fits(Dtype::F32, Dtype::F32) && fits(Dtype::Bf16, Dtype::Activation));
    assert!(!fits(Dtype::Bf16, Dtype::F32) && !fits(Dtype::F32, Dtype::U8));
    let said = |given: &[ArgKind]| mix.check(Dtype::Bf16, given).unwrap_err().to_string();
    assert!(said(&[ArgKind::Null]).starts_with("`mix` (mix.cu) takes 5 arguments, not 1; "));
    let given = [pointer(Dtype::Bf16), pointer(Dtype::F32), ArgKind::Null, ArgKind::U32, ArgKind::F32];
    assert!(said(&given).starts_with("argument 4 (`n`) of `mix` (mix.cu) is an int, not a u32; "), "{}", said(&given));
    let given = [pointer(Dtype::Bf16), pointer(Dtype::Bf16), ArgKind::Null, ArgKind::I32, ArgKind::F32];
    assert!(
        said(&given).starts_with("argument 2 (`x`) of `mix` (mix.cu) is a pointer to F32, not a pointer to BF16; "),
        "{}",
        said(&given)
    );
}

/// A structure of a kernel, as its text has it, with members that are functions and fields of several sizes.
fn taking_a_structure() -> signature::Signature {
    let text = r#"
struct Inner { int not_this; };
struct Sizes {
  int n, height;         // two
  MEMBER int rows() const { if (n) { return n; } return height; }
  float *y;
  const T *x; /* one */
  u32 seed;
};
KERNEL void sized(GRID_CONSTANT Sizes s, int add) {}
"#;
    signature::parse(&Source { name: "sized.cu", text }).unwrap().remove(0)
}

#[test]
fn structures_are_laid_out_as_the_kernel_has_them() {
    let sized = taking_a_structure();
    let ArgKind::Struct(s) = &sized.params[0].kind else { panic!("a structure") };
    let fields: Vec<_> = s.fields.iter().map(|f| (f.name, f.kind.clone(), f.constant)).collect();
    let (f32s, reals) = (ArgKind::Pointer(Dtype::F32), ArgKind::Pointer(Dtype::Activation));
    let expected = [
        ("n", ArgKind::I32, false),
        ("height", ArgKind::I32, false),
        ("y", f32s, false),
        ("x", reals, true),
        ("seed", ArgKind::U32, false),
    ];
    assert_eq!((s.name, &fields[..]), ("Sizes", &expected[..]));
    // Two ints share a word; the last word is half filled.
    assert_eq!(s.layout(), (vec![(0, 4), (4, 4), (8, 8), (16, 8), (24, 4)], 4));
    assert_eq!(sized.words(), (vec![0, 4], 5));
}

#[test]
fn a_structure_that_is_not_the_kernels_is_refused() {
    let sized = taking_a_structure();
    let ArgKind::Struct(right) = sized.params[0].kind.clone() else { panic!("a structure") };
    let said = |of: signature::Struct| sized.check(Dtype::F32, &[ArgKind::Struct(of), ArgKind::I32]).err().map(|e| e.to_string());
    let change = |change: &dyn Fn(&mut signature::Struct)| {
        let mut of = right.clone();
        change(&mut of);
        said(of).expect("a refusal")
    };
    assert_eq!(said(right.clone()), None);
    let what = "argument 1 (`s`) of `sized` (sized.cu)";
    let name = change(&|s| s.name = "Other");
    assert!(name.starts_with(&format!("{what} is the structure `Sizes`, not the structure `Other`; ")), "{name}");
    let order = change(&|s| s.fields.swap(0, 1));
    assert!(order.starts_with(&format!("{what} has the fields n, height, y, x, seed, not height, n, y, x, seed; ")), "{order}");
    let fewer = change(&|s| drop(s.fields.pop()));
    assert!(fewer.contains("not n, height, y, x; "), "{fewer}");
    let kind = change(&|s| s.fields[0].kind = ArgKind::F32);
    assert!(kind.starts_with(&format!("{what} has a field `n` that is an int, not a float; ")), "{kind}");
    let plain = sized.check(Dtype::F32, &[ArgKind::I32, ArgKind::I32]).unwrap_err().to_string();
    assert!(plain.starts_with(&format!("{what} is the structure `Sizes`, not an int; ")), "{plain}");
}

/// Where a parameter stands: what is written, what is read, `add`, whole numbers, floats. A structure stands where its first field would.
fn rank(param: &signature::Param) -> usize {
    match &param.kind {
        ArgKind::Struct(of) => rank(&of.fields[0]),
        ArgKind::Pointer(_) | ArgKind::Words | ArgKind::Null => param.constant as usize,
        ArgKind::Map => 1,
        ArgKind::I32 if param.name == "add" || param.name.starts_with("add_") => 2,
        ArgKind::I32 | ArgKind::U32 => 3,
        ArgKind::F32 => 4,
    }
}

#[test]
fn parameters_come_in_one_order_and_are_few() {
    for s in signature::table().unwrap().values() {
        let ranks: Vec<usize> = s.params.iter().map(rank).collect();
        let names: Vec<&str> = s.params.iter().map(|p| p.name).collect();
        assert!(ranks.is_sorted(), "{} ({}): outputs, inputs, add, whole numbers, floats, not {names:?}", s.kernel, s.file);
        assert!(names.len() <= 14, "{} ({}): {} parameters; sizes belong into a structure", s.kernel, s.file, names.len());
    }
}
