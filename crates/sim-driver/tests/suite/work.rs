//! Copies, launches, streams, events: results that are right, and results that are wrong because something did not wait.
#![allow(unsafe_code, reason = "uninitialised slices, as programs make them")]
use crate::support::{Lab, address, launch, ramp};

#[test]
fn a_kernel_runs_on_what_was_copied() {
    let lab = Lab::new();
    let x = lab.stream.clone_htod(&ramp(1000)).unwrap();
    // SAFETY: written by the kernel before it is read.
    let y = unsafe { lab.stream.alloc::<f32>(1000) }.unwrap();
    lab.scale(&lab.stream, &y, &x, 1000, 2.0);
    let got = lab.stream.clone_dtoh(&y).unwrap();
    assert_eq!(got, ramp(1000).iter().map(|v| 2.0 * v).collect::<Vec<_>>());
    let report = lab.report();
    assert_eq!((report.launches, report.findings.len()), (1, 0));
    let record = &report.records[0];
    assert_eq!((record.kernel.as_str(), record.grid, record.block), ("scale_f32", [8, 1, 1], [128, 1, 1]));
    assert!(record.counters.values().any(|&v| v > 0));
}

#[test]
fn the_device_says_that_it_is_none() {
    let lab = Lab::new();
    assert_eq!(lab.context.name().unwrap(), "ptx-sim (CPU stand-in)");
    assert_eq!(lab.context.compute_capability().unwrap(), (8, 0));
    let (a, b) = (lab.stream.record_event(None).unwrap(), lab.stream.record_event(None).unwrap());
    assert!(a.elapsed_ms(&b).unwrap().is_nan());
}

#[test]
fn shared_memory_static_and_dynamic() {
    let lab = Lab::new();
    let x = lab.stream.clone_htod(&ramp(128)).unwrap();
    let want: Vec<f32> = ramp(128).into_iter().rev().collect();
    for (name, shared) in [("reverse_f32", 0), ("reverse_dynamic_f32", 512)] {
        let y = lab.stream.alloc_zeros::<f32>(128).unwrap();
        launch(lab.function(name), &lab.stream, [1, 128], shared, &mut [address(&y), address(&x)]).unwrap();
        assert_eq!(lab.stream.clone_dtoh(&y).unwrap(), want, "{name}");
    }
    let shared: Vec<[usize; 2]> = lab.report().records.iter().map(|r| r.shared).collect();
    assert_eq!(shared, [[512, 0], [0, 512]]);
}

#[test]
fn page_locked_memory_is_read_when_the_copy_runs() {
    let lab = Lab::new();
    // SAFETY: zeroed by the simulated driver.
    let mut pinned = unsafe { lab.context.alloc_pinned::<f32>(4) }.unwrap();
    pinned.as_mut_slice().unwrap().copy_from_slice(&[1.0; 4]);
    let start = pinned.as_mut_ptr().unwrap();
    let x = lab.stream.clone_htod(&pinned).unwrap();
    // Too early: nobody has waited for the copy.
    // SAFETY: within the allocation; that the copy has not run is the point.
    unsafe { start.write(7.0) };
    assert_eq!(lab.stream.clone_dtoh(&x).unwrap(), [7.0, 1.0, 1.0, 1.0]);
}

#[test]
fn pageable_memory_is_taken_at_the_call() {
    let lab = Lab::new();
    let mut values = ramp(4);
    let x = lab.stream.clone_htod(&values).unwrap();
    values.fill(9.0);
    assert_eq!(lab.stream.clone_dtoh(&x).unwrap(), ramp(4));
}

#[test]
fn page_locked_results_are_there_after_waiting_only() {
    let lab = Lab::new();
    let x = lab.stream.clone_htod(&ramp(4)).unwrap();
    // SAFETY: zeroed by the simulated driver.
    let mut pinned = unsafe { lab.context.alloc_pinned::<f32>(4) }.unwrap();
    let start = pinned.as_ptr().unwrap();
    lab.stream.memcpy_dtoh(&x, &mut pinned).unwrap();
    // SAFETY: within the allocation.
    assert_eq!(unsafe { start.add(3).read() }, 0.0);
    lab.stream.synchronize().unwrap();
    // SAFETY: within the allocation.
    assert_eq!(unsafe { start.add(3).read() }, 3.0);
}

/// What the second stream reads of `y` when the first one writes it: 2 where they are ordered.
fn read_on_another_stream(ordered: bool) -> f32 {
    let lab = Lab::new();
    let other = lab.context.new_stream().unwrap();
    let x = lab.stream.clone_htod(&[1.0]).unwrap();
    let y = lab.stream.clone_htod(&[-1.0]).unwrap();
    let z = lab.stream.alloc_zeros::<f32>(1).unwrap();
    lab.stream.synchronize().unwrap();
    lab.scale(&lab.stream, &y, &x, 1, 2.0);
    if ordered {
        other.join(&lab.stream).unwrap();
    }
    lab.scale(&other, &z, &y, 1, 1.0);
    lab.context.synchronize().unwrap();
    lab.stream.clone_dtoh(&z).unwrap()[0]
}

#[test]
fn an_event_orders_two_streams_and_nothing_else_does() {
    assert_eq!(read_on_another_stream(true), 2.0);
    assert_eq!(read_on_another_stream(false), -1.0);
}

#[test]
fn an_event_is_complete_once_its_stream_was_waited_for() {
    let lab = Lab::new();
    let x = lab.stream.clone_htod(&ramp(4)).unwrap();
    let y = lab.stream.alloc_zeros::<f32>(4).unwrap();
    lab.scale(&lab.stream, &y, &x, 4, 2.0);
    let event = lab.stream.record_event(None).unwrap();
    assert!(!event.try_is_complete().unwrap());
    event.synchronize().unwrap();
    assert!(event.try_is_complete().unwrap());
    assert_eq!(lab.report().launches, 1);
    // Whoever only asks gets there too.
    lab.scale(&lab.stream, &y, &x, 4, 2.0);
    event.record(&lab.stream).unwrap();
    let asked = (0..1000).take_while(|_| !event.try_is_complete().unwrap()).count();
    assert!(10 < asked && asked < 1000, "{asked}");
}

#[test]
fn devices_do_not_share_memory_or_settings() {
    let (a, b) = (Lab::new(), Lab::new());
    assert_ne!(a.ordinal, b.ordinal);
    let x = a.stream.clone_htod(&ramp(4)).unwrap();
    let y = b.stream.clone_dtod(&x).unwrap();
    assert_eq!(b.stream.clone_dtoh(&y).unwrap(), ramp(4));
    assert!(a.report().peak_bytes >= 16);
}
