//! Handles: numbers in the clothes of pointers. They say what they are and of which device, so a stale or mixed-up one is an answer
//! (`CUDA_ERROR_INVALID_HANDLE`) and not a crash.
use crate::status::{Result, Status};
use std::ffi::c_void;

/// What a handle is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Context = 1,
    Stream,
    Event,
    Module,
    Function,
    Graph,
    Executable,
    Pool,
}

/// A `CUcontext`, `CUstream`, … as it crosses the interface. Never dereferenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Handle(pub(crate) *mut c_void);

/// The stream of handle 0: waits for every blocking stream, and they for it.
pub(crate) const LEGACY: u32 = 0;
/// The stream of handle 2 (`CU_STREAM_PER_THREAD`); here one for all threads of a device.
pub(crate) const PER_THREAD: u32 = 2;

impl Handle {
    pub(crate) fn new(kind: Kind, device: usize, index: u32) -> Handle {
        Handle(std::ptr::without_provenance_mut(((kind as usize) << 48) | (device << 32) | index as usize))
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Device and index of a handle of this kind.
    pub(crate) fn of(self, kind: Kind) -> Result<(usize, u32)> {
        let bits = self.0.addr();
        match bits >> 48 == kind as usize {
            true => Ok(((bits >> 32) & 0xffff, bits as u32)),
            false => Err(Status::INVALID_HANDLE),
        }
    }

    /// Device and index of a stream; the two fixed ones are of the `current` device.
    pub(crate) fn stream(self, current: Result<usize>) -> Result<(usize, u32)> {
        match self.0.addr() {
            0 | 1 => Ok((current?, LEGACY)),
            2 => Ok((current?, PER_THREAD)),
            _ => self.of(Kind::Stream),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_only_what_it_was_made_as() {
        let event = Handle::new(Kind::Event, 3, 77);
        assert_eq!(event.of(Kind::Event), Ok((3, 77)));
        assert_eq!(event.of(Kind::Graph), Err(Status::INVALID_HANDLE));
        assert_eq!(event.stream(Ok(0)), Err(Status::INVALID_HANDLE));
        assert_eq!(Handle(std::ptr::null_mut()).stream(Ok(5)), Ok((5, LEGACY)));
    }
}
