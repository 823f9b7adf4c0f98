//! Events: points of streams.
use super::{Out, current, driver_calls, with_current, with_device, with_handle};
use crate::{
    device::Mark,
    handle::{Handle, Kind},
    status::{Result, Status},
    work::{Point, Work},
};

/// The point of a completed or recorded event; none for one that was never recorded.
fn point(event: Handle) -> Result<(usize, Option<Point>)> {
    let (ordinal, index) = event.of(Kind::Event)?;
    with_device(ordinal, |d| {
        d.check()?;
        match d.events.get(&index).cloned().ok_or(Status::INVALID_HANDLE)? {
            Mark::None => Ok((ordinal, None)),
            Mark::Point(point) => Ok((ordinal, Some(point))),
            Mark::Captured { capture, .. } => {
                d.break_capture(capture);
                Err(Status::CAPTURED_EVENT)
            }
        }
    })
}

driver_calls! {
    fn cuEventCreate(out: Out<Handle>, _flags: u32) {
        let index = with_current(|d| {
            let index = d.index();
            d.events.insert(index, Mark::None);
            Ok(index)
        })?;
        out.set(Handle::new(Kind::Event, current()?, index))
    }

    fn cuEventDestroy_v2(event: Handle) {
        with_handle(event, Kind::Event, |d, index| d.events.remove(&index).map(drop).ok_or(Status::INVALID_HANDLE))
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        let (of_stream, stream) = stream.stream(current())?;
        let (of_event, index) = event.of(Kind::Event)?;
        if of_stream != of_event {
            return Err(Status::INVALID_HANDLE);
        }
        with_device(of_event, |d| {
            d.check()?;
            if !d.events.contains_key(&index) {
                return Err(Status::INVALID_HANDLE);
            }
            let mark = match d.stream(stream)?.capture.clone() {
                Some(joined) => Mark::Captured { capture: joined.capture, tail: joined.tail },
                None => {
                    if d.stream(stream)?.blocking {
                        // What the stream has to wait for counts as before the event.
                        d.submit(stream, Work::Join)?;
                    }
                    Mark::Point(d.point(stream))
                }
            };
            d.events.insert(index, mark);
            Ok(())
        })
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, _flags: u32) {
        match cuEventRecord(event, stream) {
            Status::SUCCESS => Ok(()),
            status => Err(status),
        }
    }

    fn cuEventSynchronize(event: Handle) {
        match point(event)? {
            (_, None) => Ok(()),
            (ordinal, Some(point)) => with_device(ordinal, |d| {
                d.run_to(point);
                d.check()
            }),
        }
    }

    /// An event is complete once somebody has waited for its stream, or has asked often enough.
    fn cuEventQuery(event: Handle) {
        match point(event)? {
            (_, None) => Ok(()),
            (ordinal, Some(point)) => match with_device(ordinal, |d| Ok(d.poll(point)))? {
                true => Ok(()),
                false => Err(Status::NOT_READY),
            },
        }
    }

    /// There is no time here to measure.
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        for event in [start, end] {
            let (ordinal, point) = point(event)?;
            let point = point.ok_or(Status::INVALID_HANDLE)?;
            if !with_device(ordinal, |d| Ok(d.is_past(point)))? {
                return Err(Status::NOT_READY);
            }
        }
        milliseconds.set(f32::NAN)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        match cuEventElapsedTime(milliseconds, start, end) {
            Status::SUCCESS => Ok(()),
            status => Err(status),
        }
    }
}
