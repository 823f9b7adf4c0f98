//! Streams, and recording them.
use super::{Out, current, driver_calls, with_current, with_device, with_handle, with_stream};
use crate::{
    device::{Capture, Joined, Mark, Stream},
    handle::{Handle, Kind, LEGACY},
    status::Status,
    work::{HostFunction, Point, Work},
};
use std::ffi::c_void;

driver_calls! {
    fn cuStreamCreateWithPriority(out: Out<Handle>, flags: u32, _priority: i32) {
        // 1 is CU_STREAM_NON_BLOCKING.
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        let ordinal = current()?;
        let index = with_current(|d| {
            let index = d.index();
            d.streams.insert(index, Stream { blocking: flags == 0, ..Stream::default() });
            Ok(index)
        })?;
        out.set(Handle::new(Kind::Stream, ordinal, index))
    }

    fn cuStreamCreate(out: Out<Handle>, flags: u32) {
        match cuStreamCreateWithPriority(out, flags, 0) {
            Status::SUCCESS => Ok(()),
            status => Err(status),
        }
    }

    /// Work that is still there runs before the stream goes: a driver lets it finish.
    fn cuStreamDestroy_v2(stream: Handle) {
        with_handle(stream, Kind::Stream, |d, index| {
            d.run_to(Point { stream: index, sequence: u64::MAX });
            match d.streams.remove(&index) {
                Some(gone) => {
                    if let Some(joined) = gone.capture {
                        d.break_capture(joined.capture);
                    }
                    Ok(())
                }
                None => Err(Status::INVALID_HANDLE),
            }
        })
    }

    fn cuStreamSynchronize(stream: Handle) {
        with_stream(stream, |d, index| d.synchronize_stream(index))
    }

    /// A stream with work in it is not ready until somebody waits for it, or has asked often enough.
    fn cuStreamQuery(stream: Handle) {
        with_stream(stream, |d, index| {
            if let Some(joined) = d.stream(index)?.capture.clone() {
                return Err(d.break_capture(joined.capture));
            }
            match d.poll(Point { stream: index, sequence: u64::MAX }) {
                true => Ok(()),
                false => Err(Status::NOT_READY),
            }
        })
    }

    fn cuStreamGetFlags(stream: Handle, flags: Out<u32>) {
        flags.set(with_stream(stream, |d, index| Ok(u32::from(!d.stream(index)?.blocking)))?)
    }

    fn cuStreamGetPriority(stream: Handle, priority: Out<i32>) {
        with_stream(stream, |_, _| Ok(()))?;
        priority.set(0)
    }

    fn cuStreamGetCtx(stream: Handle, out: Out<Handle>) {
        out.set(Handle::new(Kind::Context, stream.stream(current())?.0, 1))
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: u32) {
        let (of_event, event) = event.of(Kind::Event)?;
        let (of_stream, index) = stream.stream(current())?;
        let mark = with_device(of_event, |d| d.events.get(&event).cloned().ok_or(Status::INVALID_HANDLE))?;
        if of_event != of_stream && let Mark::Point(point) = mark {
            // Devices run one at a time: what another one has to do first, it does now.
            return with_device(of_event, |d| {
                d.run_to(point);
                d.check()
            });
        }
        with_stream(stream, |d, _| {
            let capture = d.stream(index)?.capture.clone();
            match (mark, capture) {
                (Mark::None, _) => Ok(()),
                (Mark::Point(point), None) => match d.is_past(point) {
                    true => Ok(()),
                    false => d.submit_after(index, vec![point], Work::Join),
                },
                // What lies outside cannot be waited for when the graph runs.
                (Mark::Point(_), Some(joined)) => {
                    d.break_capture(joined.capture);
                    Err(Status::CAPTURE_ISOLATION)
                }
                (Mark::Captured { capture, .. }, None) if index == LEGACY => {
                    d.break_capture(capture);
                    Err(Status::CAPTURE_IMPLICIT)
                }
                (Mark::Captured { capture, .. }, _) if !d.captures.contains_key(&capture) => Err(Status::CAPTURED_EVENT),
                (Mark::Captured { capture, tail }, None) => {
                    d.stream(index)?.capture = Some(Joined { capture, tail });
                    Ok(())
                }
                (Mark::Captured { capture, tail }, Some(mut joined)) => {
                    if joined.capture != capture {
                        d.break_capture(joined.capture);
                        d.break_capture(capture);
                        return Err(Status::CAPTURE_MERGE);
                    }
                    joined.tail.extend(tail);
                    joined.tail.sort_unstable();
                    joined.tail.dedup();
                    d.stream(index)?.capture = Some(joined);
                    Ok(())
                }
            }
        })
    }

    fn cuLaunchHostFunc(stream: Handle, function: Option<HostFunction>, data: *mut c_void) {
        let function = function.ok_or(Status::INVALID_VALUE)?;
        with_stream(stream, |d, index| d.submit(index, Work::Host { function, data: data.expose_provenance() }))
    }

    fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) {
        with_stream(stream, |d, index| {
            if index == LEGACY {
                return Err(Status::CAPTURE_UNSUPPORTED);
            }
            if mode > 2 || d.stream(index)?.capture.is_some() {
                return Err(Status::INVALID_VALUE);
            }
            let number = d.index();
            d.captures.insert(number, Capture { origin: index, mode, nodes: Vec::new(), broken: false });
            d.stream(index)?.capture = Some(Joined { capture: number, tail: Vec::new() });
            Ok(())
        })
    }

    fn cuStreamIsCapturing(stream: Handle, status: Out<u32>) {
        let found = with_stream(stream, |d, index| {
            let Some(joined) = d.stream(index)?.capture.clone() else {
                return Ok(0);
            };
            Ok(match d.captures.get(&joined.capture) {
                Some(capture) if !capture.broken => 1,
                _ => 2,
            })
        })?;
        status.set(found)
    }

    fn cuStreamEndCapture(stream: Handle, out: Out<Handle>) {
        let ordinal = stream.stream(current())?.0;
        out.set(Handle(std::ptr::null_mut()))?;
        let graph = with_stream(stream, |d, index| {
            let Some(joined) = d.stream(index)?.capture.clone() else {
                return Err(Status::INVALID_VALUE);
            };
            if d.captures.get(&joined.capture).is_some_and(|c| c.origin != index) {
                d.break_capture(joined.capture);
                return Err(Status::CAPTURE_UNMATCHED);
            }
            // From here on the capture is over, whatever comes of it.
            for other in d.streams.values_mut() {
                if other.capture.as_ref().is_some_and(|j| j.capture == joined.capture) {
                    other.capture = None;
                }
            }
            let capture = d.captures.remove(&joined.capture).filter(|c| !c.broken).ok_or(Status::CAPTURE_INVALIDATED)?;
            // Every node has to lie before the end of the stream that began.
            let mut reached = vec![false; capture.nodes.len()];
            let mut open = joined.tail;
            while let Some(i) = open.pop() {
                if let Some(seen) = reached.get_mut(i).filter(|seen| !**seen) {
                    *seen = true;
                    open.extend(&capture.nodes[i].after);
                }
            }
            if reached.contains(&false) {
                return Err(Status::CAPTURE_UNJOINED);
            }
            let number = d.index();
            d.graphs.insert(number, capture.nodes);
            Ok(number)
        })?;
        out.set(Handle::new(Kind::Graph, ordinal, graph))
    }

    /// Device memory is not managed: nothing to attach.
    fn cuStreamAttachMemAsync(_stream: Handle, _address: u64, _bytes: usize, _flags: u32) {
        Err(Status::NOT_SUPPORTED)
    }
}
