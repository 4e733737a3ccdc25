//! What each kernel takes is read from its source, and a call that does not fit is refused.

use sslmem::device::kernels::Source;
use sslmem::device::signature::{self, Kind};
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
    let params: Vec<_> = parsed[0].params.iter().map(|p| (p.name, p.kind, p.constant)).collect();
    let pointer = Kind::Pointer;
    let expected = [
        ("y", pointer(Dtype::Real), false),
        ("x", pointer(Dtype::Real), true),
        ("bytes", pointer(Dtype::U8), true),
        ("table", Kind::Words, true),
        ("ids", pointer(Dtype::U32), true),
        ("loss", pointer(Dtype::F32), false),
        ("add", Kind::I32, false),
        ("seed", Kind::U32, false),
        ("rate", Kind::F32, false),
    ];
    assert_eq!(params, expected);
    for (text, said) in [
        ("KERNEL void a(double x) {", "a.cu: no call can give `double x` to `a`"),
        ("KERNEL void a(const float **x) {", "a.cu: no call can give `const float **x` to `a`"),
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
    let pointer = Kind::Pointer;
    let fits = |real, first| mix.check(real, &[pointer(first), Kind::Null, pointer(Dtype::U32), Kind::I32, Kind::F32]).is_ok();
    assert!(fits(Dtype::Bf16, Dtype::Bf16) && fits(Dtype::F32, Dtype::F32) && fits(Dtype::Bf16, Dtype::Real));
    assert!(!fits(Dtype::Bf16, Dtype::F32) && !fits(Dtype::F32, Dtype::U8));
    let said = |given: &[Kind]| mix.check(Dtype::Bf16, given).unwrap_err().to_string();
    assert!(said(&[Kind::Null]).starts_with("`mix` (mix.cu) takes 5 arguments, not 1; "));
    let given = [pointer(Dtype::Bf16), pointer(Dtype::F32), Kind::Null, Kind::U32, Kind::F32];
    assert!(said(&given).starts_with("argument 4 (`n`) of `mix` (mix.cu) is an int, not a u32; "), "{}", said(&given));
    let given = [pointer(Dtype::Bf16), pointer(Dtype::Bf16), Kind::Null, Kind::I32, Kind::F32];
    assert!(
        said(&given).starts_with("argument 2 (`x`) of `mix` (mix.cu) is a pointer to F32, not a pointer to BF16; "),
        "{}",
        said(&given)
    );
}
