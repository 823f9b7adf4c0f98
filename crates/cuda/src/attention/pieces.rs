//! How packed sequences are cut into pieces, of which a block takes one. Those with most work come first: blocks start in their order, and
//! the short ones then fill the time that the last long ones leave.
use crate::{device::Device, driver::Address, kernel::Launch, memory::DeviceBuffer};
use paring_ops::{AttnSpec, Result};

/// Rows `first..` of the sequence whose rows are `begin..end`, as kernels read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::NoUninit)]
#[repr(C)]
pub(super) struct Piece {
    first: u32,
    begin: u32,
    end: u32,
    unused: u32,
}

/// What a piece's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Queries, that look back at keys.
    Queries,
    /// Keys, that are looked at from later queries.
    Keys,
}

/// The pieces of a spec as kernels take them. Without a list, all rows are one sequence, which kernels cut themselves.
pub(super) struct Pieces {
    list: Option<DeviceBuffer>,
    count: usize,
}

impl Pieces {
    /// Pieces of at most `rows` rows.
    pub(super) fn of(device: &Device, op: &'static str, spec: &AttnSpec, rows: u32, of: Rows) -> Result<Pieces> {
        if let Some(tokens) = only_sequence(spec) {
            return Ok(Pieces { list: None, count: tokens.div_ceil(rows.max(1) as usize) });
        }
        let list = cut(spec, rows as usize, of);
        Ok(Pieces { list: Some(device.upload_slice(op, &list)?), count: list.len() })
    }

    pub(super) fn address(&self) -> Address {
        self.list.as_ref().map_or(Address(0), DeviceBuffer::address)
    }

    /// A launch of a block of `threads` for each piece of each head.
    pub(super) fn launch(&self, entry: &'static str, heads: u32, threads: u32, shared: u32) -> Launch {
        let blocks = u32::try_from(self.count).unwrap_or(u32::MAX);
        Launch { entry, grid: [blocks, heads, 1], block: [threads, 1, 1], shared }
    }
}

/// The length of the sequence that has all rows, if one has.
fn only_sequence(spec: &AttnSpec) -> Option<usize> {
    let mut lengths = spec.cu_len.windows(2).map(|b| b[1] - b[0]).filter(|&n| 0 < n);
    let first = lengths.next();
    first.filter(|_| lengths.next().is_none())
}

/// The spec's numbers fit 31 bits (`Sizes::of`).
fn cut(spec: &AttnSpec, rows: usize, of: Rows) -> Vec<Piece> {
    let row = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let cut = |bounds: &[usize]| {
        let (begin, end) = (bounds[0], bounds[1]);
        let piece = move |first| Piece { first: row(first), begin: row(begin), end: row(end), unused: 0 };
        (begin..end).step_by(rows.max(1)).map(piece)
    };
    let mut pieces: Vec<Piece> = spec.cu_len.windows(2).flat_map(cut).collect();
    // The work is the rows on the other side, and a window's at most. Equal pieces keep their order.
    let window = row(spec.window.unwrap_or(usize::MAX));
    let work = |p: &Piece| match of {
        Rows::Queries => (p.first - p.begin).min(window),
        Rows::Keys => (p.end - p.first).min(window),
    };
    pieces.sort_by_key(|p| std::cmp::Reverse(work(p)));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firsts(pieces: &[Piece]) -> Vec<u32> {
        pieces.iter().map(|p| p.first).collect()
    }

    #[test]
    fn every_row_is_in_one_piece_of_its_sequence() {
        let spec = AttnSpec::packed(1, 1, 8, vec![0, 0, 64, 65, 65, 200]);
        let mut pieces = cut(&spec, 64, Rows::Queries);
        pieces.sort_by_key(|p| p.first);
        let got: Vec<[u32; 3]> = pieces.iter().map(|p| [p.first, p.begin, p.end]).collect();
        assert_eq!(got, [[0, 0, 64], [64, 64, 65], [65, 65, 200], [129, 65, 200], [193, 65, 200]]);
        assert!(cut(&AttnSpec::packed(1, 1, 8, vec![0]), 64, Rows::Keys).is_empty());
    }

    #[test]
    fn one_sequence_needs_no_list() {
        let only = |cu: &[usize]| only_sequence(&AttnSpec::packed(1, 1, 8, cu.to_vec()));
        assert_eq!(only(&[0, 0, 70, 70]), Some(70));
        assert_eq!(only(&[0, 70, 71]), None);
        assert_eq!([only(&[0]), only(&[0, 0])], [None, None]);
    }

    #[test]
    fn most_work_comes_first() {
        let spec = AttnSpec::packed(1, 1, 8, vec![0, 130, 150]);
        assert_eq!(firsts(&cut(&spec, 64, Rows::Queries)), [128, 64, 0, 130]);
        assert_eq!(firsts(&cut(&spec, 64, Rows::Keys)), [0, 64, 130, 128]);
        let spec = AttnSpec { window: Some(10), ..spec };
        assert_eq!(firsts(&cut(&spec, 64, Rows::Queries)), [64, 128, 0, 130]);
    }
}
