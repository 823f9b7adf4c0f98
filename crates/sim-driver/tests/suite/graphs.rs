//! Recording a stream, launching what was recorded, changing it.
#![allow(unsafe_code, reason = "the driver API, as programs call it")]
use crate::support::{Lab, address, code, ramp};
use cudarc::driver::{CudaSlice, CudaStream, result, sys};
use std::sync::Arc;

const RELAXED: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
const GLOBAL: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;

/// `y = factor * x`, then `z = y`, recorded.
fn record(lab: &Lab, [x, y, z]: [&CudaSlice<f32>; 3], factor: f32) -> sys::CUgraph {
    lab.stream.begin_capture(RELAXED).unwrap();
    lab.scale(&lab.stream, y, x, 4, factor);
    // SAFETY: sixteen bytes at both ends.
    unsafe { result::memcpy_dtod_async(address(z), address(y), 16, lab.stream.cu_stream()) }.unwrap();
    // SAFETY: the stream is being captured.
    unsafe { result::stream::end_capture(lab.stream.cu_stream()) }.unwrap()
}

fn values(lab: &Lab, x: &CudaSlice<f32>) -> Vec<f32> {
    lab.stream.clone_dtoh(x).unwrap()
}

#[test]
fn a_graph_runs_when_it_is_launched_as_often_as_it_is_and_can_be_updated() {
    let lab = Lab::new();
    let x = lab.stream.clone_htod(&ramp(4)).unwrap();
    let y = lab.stream.alloc_zeros::<f32>(4).unwrap();
    let z = lab.stream.alloc_zeros::<f32>(4).unwrap();
    let graph = record(&lab, [&x, &y, &z], 2.0);
    assert_eq!(values(&lab, &z), [0.0; 4]);
    // SAFETY: the graph is alive.
    let executable = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) }.unwrap();
    // SAFETY: graph and stream are alive.
    let launch = || unsafe { result::graph::launch(executable, lab.stream.cu_stream()) }.unwrap();
    launch();
    assert_eq!(values(&lab, &z), [0.0, 2.0, 4.0, 6.0]);
    // In place: each launch doubles again.
    let again = record(&lab, [&z, &z, &y], 2.0);
    let mut info = std::mem::MaybeUninit::<sys::CUgraphExecUpdateResultInfo>::zeroed();
    // A launch that is queued keeps what it was launched with.
    launch();
    // SAFETY: both are alive, and there is room for the answer.
    unsafe { sys::cuGraphExecUpdate_v2(executable, again, info.as_mut_ptr()) }.result().unwrap();
    launch();
    launch();
    assert_eq!(values(&lab, &y), [0.0, 8.0, 16.0, 24.0]);
    // Another shape of graph is refused.
    lab.stream.begin_capture(RELAXED).unwrap();
    lab.scale(&lab.stream, &y, &x, 4, 1.0);
    // SAFETY: the stream is being captured.
    let shorter = unsafe { result::stream::end_capture(lab.stream.cu_stream()) }.unwrap();
    // SAFETY: as above.
    let updated = unsafe { sys::cuGraphExecUpdate_v2(executable, shorter, info.as_mut_ptr()) }.result();
    assert_eq!(code(updated), 910);
    for graph in [graph, again, shorter] {
        // SAFETY: alive, destroyed once.
        unsafe { result::graph::destroy(graph) }.unwrap();
    }
    // SAFETY: as above.
    unsafe { result::graph::exec_destroy(executable) }.unwrap();
    assert_eq!(lab.report().findings, [""; 0]);
}

#[test]
fn waiting_breaks_a_capture() {
    let lab = Lab::new();
    lab.stream.begin_capture(GLOBAL).unwrap();
    assert_eq!(code(lab.stream.synchronize()), 900);
    // SAFETY: the stream is being captured.
    assert_eq!(code(unsafe { result::stream::end_capture(lab.stream.cu_stream()) }), 901);
    // So does asking for memory, except in the relaxed mode.
    lab.stream.begin_capture(GLOBAL).unwrap();
    // SAFETY: refused.
    assert_eq!(code(unsafe { result::malloc_sync(4) }), 900);
    // SAFETY: the stream is being captured.
    assert_eq!(code(unsafe { result::stream::end_capture(lab.stream.cu_stream()) }), 901);
    lab.stream.begin_capture(RELAXED).unwrap();
    // SAFETY: goes with its context.
    unsafe { result::malloc_sync(4) }.unwrap();
    // SAFETY: the stream is being captured.
    unsafe { result::stream::end_capture(lab.stream.cu_stream()) }.unwrap();
    // A stream that was captured is as it was.
    let x = lab.stream.clone_htod(&ramp(2)).unwrap();
    assert_eq!(values(&lab, &x), ramp(2));
}

/// Forks to a second stream within a capture; whether it is joined again.
fn fork(lab: &Lab, joined: bool) -> (Arc<CudaStream>, [CudaSlice<f32>; 3], Result<sys::CUgraph, u32>) {
    let other = lab.context.new_stream().unwrap();
    let x = lab.stream.clone_htod(&ramp(4)).unwrap();
    let y = lab.stream.alloc_zeros::<f32>(4).unwrap();
    let z = lab.stream.alloc_zeros::<f32>(4).unwrap();
    lab.stream.synchronize().unwrap();
    lab.stream.begin_capture(RELAXED).unwrap();
    other.join(&lab.stream).unwrap();
    lab.scale(&other, &y, &x, 4, 2.0);
    if joined {
        lab.stream.join(&other).unwrap();
    }
    lab.scale(&lab.stream, &z, &y, 4, 1.0);
    // SAFETY: the stream is being captured.
    let graph = unsafe { result::stream::end_capture(lab.stream.cu_stream()) };
    (other, [x, y, z], graph.map_err(|e| e.0 as u32))
}

#[test]
fn a_capture_spans_streams_that_are_joined_again() {
    let lab = Lab::new();
    let (_other, [_x, _y, z], graph) = fork(&lab, true);
    // SAFETY: the graph is alive.
    let executable = unsafe { result::graph::instantiate(graph.unwrap(), sys::CUgraphInstantiate_flags(0)) }.unwrap();
    // SAFETY: graph and stream are alive.
    unsafe { result::graph::launch(executable, lab.stream.cu_stream()) }.unwrap();
    assert_eq!(values(&lab, &z), [0.0, 2.0, 4.0, 6.0]);
    let other = Lab::new();
    assert_eq!(fork(&other, false).2, Err(904));
}
