//! Page-locked host memory between the caller's slices and the device. A copy from it runs when the stream comes to it: a piece is used
//! again only after an event behind its copy has passed.
use crate::driver::{Address, Driver, Event, Pinned, Result};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// Longer copies go in pieces of this many bytes: while one is copied the next is written.
const PIECE: usize = 4 << 20;

/// At most this many bytes wait in pieces before the host waits for the device.
const WAITING: usize = 64 << 20;

/// The smallest piece.
const SMALLEST: usize = 4 << 10;

#[derive(Debug)]
struct Used {
    piece: Pinned,
    /// Behind the last copy from the piece.
    behind: Arc<Event>,
}

#[derive(Debug)]
pub(crate) struct Staging {
    driver: Arc<Driver>,
    /// In the order of their copies.
    used: Mutex<VecDeque<Used>>,
    /// Pieces whose copies are part of a graph that is being captured; `None` when none is.
    captured: Mutex<Option<Vec<Pinned>>>,
}

impl Staging {
    pub(crate) fn new(driver: Arc<Driver>) -> Staging {
        Staging { driver, used: Mutex::default(), captured: Mutex::default() }
    }

    /// Puts a copy of `bytes` to `to` on the stream. The slice is free when this returns.
    pub(crate) fn upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        for (i, part) in bytes.chunks(PIECE).enumerate() {
            let mut piece = self.piece(part.len())?;
            piece.bytes_mut()[..part.len()].copy_from_slice(part);
            self.driver.copy_in(to.add(i * PIECE), &piece, part.len())?;
            let mut captured = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
            match captured.as_mut() {
                Some(pieces) => pieces.push(piece),
                None => self.give_back([piece])?,
            }
        }
        Ok(())
    }

    /// Copies from the device, waiting for all that is on the stream.
    pub(crate) fn download(&self, to: &mut [u8], from: Address) -> Result<()> {
        for (i, part) in to.chunks_mut(PIECE).enumerate() {
            let mut piece = self.piece(part.len())?;
            self.driver.copy_out(&mut piece, from.add(i * PIECE), part.len())?;
            part.copy_from_slice(&piece.bytes()[..part.len()]);
            self.give_back([piece])?;
        }
        Ok(())
    }

    /// From now on pieces are kept for the graph that is being captured, until [`Staging::end_capture`].
    pub(crate) fn begin_capture(&self) {
        *self.captured.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// The pieces of the graph. Hand them to [`Staging::give_back`] when it has been launched.
    pub(crate) fn end_capture(&self) -> Vec<Pinned> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// Pieces may be used again when the stream has come past here.
    pub(crate) fn give_back(&self, pieces: impl IntoIterator<Item = Pinned>) -> Result<()> {
        let behind = Arc::new(self.driver.record()?);
        let pieces = pieces.into_iter().map(|piece| Used { piece, behind: Arc::clone(&behind) });
        self.used.lock().unwrap_or_else(PoisonError::into_inner).extend(pieces);
        Ok(())
    }

    /// A piece of at least `len` bytes that no copy reads any more.
    fn piece(&self, len: usize) -> Result<Pinned> {
        let want = len.next_power_of_two().max(SMALLEST);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |u: &Used| u.piece.bytes().len() == want;
        // Events pass in order: when the first that fits has not passed, no later one has.
        if let Some(i) = used.iter().position(fits) {
            let waiting: usize = used.iter().map(|u| u.piece.bytes().len()).sum();
            if WAITING < waiting + want {
                used[i].behind.wait()?;
            }
            if used[i].behind.is_past()?
                && let Some(free) = used.remove(i)
            {
                return Ok(free.piece);
            }
        }
        self.driver.allocate_pinned(want)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Pieces are freed behind this: nothing may still copy from them. An error means that the device is lost, and copies with it.
        let _ = self.driver.synchronize();
    }
}
