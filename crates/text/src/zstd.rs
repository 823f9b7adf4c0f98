//! Reading .zst files: all frames, one after the other, with their checksums. (`ruzstd`'s own reader stops after the first frame and leaves
//! the checksum to its caller.)
use crate::fence::fenced;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use std::io::{self, BufRead, Read};

/// Decompresses what `source` gives. Windows of more than 128 MiB are refused by `ruzstd`, so a header cannot ask for much memory.
pub(crate) struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// Inside of a frame; before and after one, a new frame or the end of the file may follow.
    in_frame: bool,
    /// Frames so far, skippable ones included.
    frames: u64,
}

impl<R: BufRead> Zstd<R> {
    pub(crate) fn new(source: R) -> Self {
        Zstd { source, decoder: FrameDecoder::new(), in_frame: false, frames: 0 }
    }

    /// Begins the next frame; false at the end of the file.
    fn start(&mut self) -> io::Result<bool> {
        if self.source.fill_buf()?.is_empty() {
            // Compressing nothing gives a frame too.
            return if 0 < self.frames { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        self.frames += 1;
        match fenced(|| self.decoder.reset(&mut self.source)).map_err(io::Error::other)? {
            Ok(()) => self.in_frame = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let length = u64::from(length);
                if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(e) => return Err(io::Error::other(e)),
        }
        Ok(true)
    }

    /// Ends the frame.
    fn finish(&mut self) -> io::Result<()> {
        self.in_frame = false;
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(want), Some(got)) if want != got => Err(io::Error::other(format!(
                "the checksum of frame {} is {got:08x}, expected {want:08x}",
                self.frames
            ))),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if 0 < self.decoder.can_collect() {
                return fenced(|| self.decoder.read(buf)).map_err(io::Error::other)?;
            }
            if !self.in_frame {
                if !self.start()? {
                    return Ok(0);
                }
            } else if self.decoder.is_finished() {
                self.finish()?;
            } else {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                fenced(|| self.decoder.decode_blocks(&mut self.source, one))
                    .map_err(io::Error::other)?
                    .map_err(io::Error::other)?;
            }
        }
    }
}
