//! Small listings in nvdisasm's form, and what must be read out of them.
use super::*;

/// An outer loop around a loop with two products; rare code behind the end jumps back into the inner loop.
const NESTED: &str = r#"
	.section	.text.gemm_nt,"ax",@progbits
        .global         gemm_nt
gemm_nt:
.text.gemm_nt:
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDGSTS.E.BYPASS.128 [R8], [R2.64] ;
.L_x_1:
        /*0020*/                   LDSM.16.M88.4 R4, [R8] ;
        /*0030*/                   LDSM.16.MT88.2 R6, [R8+0x100] ;
        /*0040*/              @!P1 BRA `(.L_x_5) ;
.L_x_2:
        /*0050*/                   HMMA.16816.F32.BF16 R12, R4, R6, R12 ;
        /*0060*/                   HMMA.16816.F32.BF16 R16, R4.reuse, R6, R16 ;
        /*0070*/               @P0 BRA `(.L_x_1) ;
        /*0080*/                   BRA !P2, `(.L_x_0) ;
        /*0090*/                   RED.E.ADD.F32.FTZ.RN.STRONG.GPU [R2.64], R12 ;
        /*00a0*/                   RED.E.ADD.STRONG.GPU [R2.64], R12 ;
        /*00b0*/                   STG.E.128 [R2.64], R12 ;
        /*00c0*/                   STL [R1], R12 ;
        /*00d0*/                   EXIT ;
.L_x_5:
        /*00e0*/                   MOV R4, RZ ;
        /*00f0*/                   BRA `(.L_x_2) ;
.L_x_6:
        /*0100*/                   BRA `(.L_x_6);
        /*0110*/                   NOP;
.L_x_7:
"#;

fn only(text: &str) -> Mix {
    let functions = parse(text);
    assert_eq!(functions.len(), 1);
    functions[0].1.mix()
}

#[test]
fn the_hot_loop_is_the_inner_one() {
    let mix = only(NESTED);
    // Rare code belongs to the loop that it returns to.
    let hot = Hot { is_loop: true, instructions: 8, hmma: 2, ldsm_x4: 1.5, shared_clocks: 6.0, tensor_clocks: 4.0 };
    assert_eq!(mix.hot, hot);
    assert!((hot.hmma_per_ldsm() - 4.0 / 3.0).abs() < 1e-12);
    assert_eq!((hot.hmma_share(), hot.shared_over_tensor()), (0.25, 1.5));
}

#[test]
fn instructions_are_told_apart() {
    let mix = only(NESTED);
    assert_eq!((mix.instructions, mix.hmma, mix.local), (17, 2, 1));
    assert_eq!((mix.float_atomics, mix.wide_loads, mix.wide_stores), (1, 1, 1));
}

#[test]
fn without_a_loop_all_of_the_code_is_hot() {
    let straight = NESTED.replace("@P0 BRA `(.L_x_1)", "@P0 EXIT").replace("BRA !P2,", "MOV R2,");
    let hot = only(&straight).hot;
    assert_eq!((hot.is_loop, hot.hmma, hot.instructions), (false, 2, 17));
}

#[test]
fn a_kernel_without_products_has_none_per_load() {
    let hot = only(".text.a:\n/*0000*/ EXIT ;").hot;
    assert!(hot.hmma_per_ldsm().is_nan() && hot.hmma_share() == 0.0);
}

#[test]
fn loads_are_in_flight_until_one_is_read() {
    let code = |lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|l| format!("/*0000*/ {l} ;")).collect();
        only(&format!(".text.a:\n{}", lines.join("\n"))).loads_in_flight
    };
    let (a, b, c) = ("LDG.E.128 R4, [R2.64]", "LDG.E.128.CONSTANT R8, [R2.64+0x10]", "LDG.E.128 R12, [R2.64+0x20]");
    assert_eq!(code(&[a, b, c]), 3);
    // R6 is the third register of the first load.
    assert_eq!(code(&[a, "FADD R0, R6, R0", b, c]), 2);
    assert_eq!(code(&[a, "FADD R0, R20, UR6", b, c]), 3);
    assert_eq!(code(&[a, "LDG.E.128 R8, [R4.64]"]), 1);
    assert_eq!(code(&["LDG.E R4, [R2.64]"]), 0);
    let copy = "LDGSTS.E.BYPASS.128 [R20], [R2.64]";
    assert_eq!(code(&[copy, copy, a, "DEPBAR.LE SB0, 0x0", copy]), 3);
}

#[test]
fn functions_are_split() {
    let two = format!("{NESTED}\n.text.other:\n        /*0000*/                   EXIT ;\n");
    let names: Vec<_> = parse(&two).into_iter().map(|(name, f)| (name, f.code.len())).collect();
    assert_eq!(names, [("gemm_nt".to_owned(), 18), ("other".to_owned(), 1)]);
}
