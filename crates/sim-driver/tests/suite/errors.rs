//! What the checkers find: an error that stays, with the line of the PTX.
use crate::support::{Lab, PTX, address, code, launch, ramp};

#[test]
fn a_bad_address_fails_for_good_and_says_where() {
    let lab = Lab::new();
    let x = lab.stream.clone_htod(&ramp(32)).unwrap();
    let y = lab.stream.alloc_zeros::<f32>(32).unwrap();
    let f = lab.function("scale_one_more_f32");
    // The launch itself succeeds: nothing has run.
    let mut p = [address(&y), address(&x), 32, u64::from(2.0_f32.to_bits())];
    launch(f, &lab.stream, [1, 64], 0, &mut p).unwrap();
    assert_eq!(code(lab.stream.synchronize()), 700);
    assert_eq!(code(lab.stream.synchronize()), 700);
    assert_eq!(code(lab.stream.clone_htod(&ramp(1))), 700);
    let report = lab.report();
    let finding = &report.findings[0];
    assert!(finding.contains("scale_one_more_f32"), "{finding}");
    // The line is one of the kernel's loads.
    let line = finding.split(|c: char| !c.is_ascii_digit()).find_map(|n| {
        let n: usize = n.parse().ok()?;
        PTX.lines().nth(n.checked_sub(1)?).filter(|text| text.contains("ld.global"))
    });
    assert!(line.is_some(), "{finding}");
    // Other devices go on.
    let other = Lab::new();
    assert_eq!(other.stream.clone_dtoh(&other.stream.clone_htod(&ramp(2)).unwrap()).unwrap(), ramp(2));
}

#[test]
fn reading_what_nobody_wrote_is_found() {
    let lab = Lab::new();
    // SAFETY: not written before it is read: that is the point.
    #[allow(unsafe_code, reason = "an uninitialised slice, as programs make them")]
    let x = unsafe { lab.stream.alloc::<f32>(4) }.unwrap();
    let y = lab.stream.alloc_zeros::<f32>(4).unwrap();
    lab.scale(&lab.stream, &y, &x, 4, 1.0);
    assert_eq!(code(lab.stream.synchronize()), 700);
}

#[test]
fn a_context_that_everybody_let_go_begins_anew() {
    let lab = Lab::new();
    let (driver, ordinal) = (lab.driver, lab.ordinal);
    let x = lab.stream.clone_htod(&ramp(1)).unwrap();
    let mut p = [address(&x), address(&x), 1, 0];
    launch(lab.function("scale_one_more_f32"), &lab.stream, [1, 32], 0, &mut p).unwrap();
    assert_eq!(code(lab.stream.synchronize()), 700);
    drop(x);
    drop(lab);
    let report = driver.take_report(ordinal).unwrap();
    assert_eq!(report.live_bytes, 0);
    let context = cudarc::driver::CudaContext::new(ordinal).unwrap();
    let stream = context.default_stream();
    assert_eq!(stream.clone_dtoh(&stream.clone_htod(&ramp(3)).unwrap()).unwrap(), ramp(3));
}
