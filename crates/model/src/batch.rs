//! Packed tokens: several sequences behind one another, without padding.
use std::sync::Arc;

/// Tokens of one forward.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Token ids, all sequences behind one another: `[T]`.
    pub ids: Vec<u32>,
    /// The position of every token in its own sequence: `[T]`.
    pub positions: Arc<[u32]>,
    /// Where sequences begin and end: `[0, .., T]`.
    pub cu_len: Vec<usize>,
}

/// `ids` as documents of so many tokens each, in order; `None` when these do not add up to its length.
pub fn split_documents<'a>(ids: &'a [u32], tokens: &[usize]) -> Option<Vec<&'a [u32]>> {
    let mut rest = ids;
    let mut next = |&n: &usize| {
        let (document, after) = rest.split_at_checked(n)?;
        rest = after;
        Some(document)
    };
    let documents = tokens.iter().map(&mut next).collect::<Option<_>>()?;
    if rest.is_empty() { Some(documents) } else { None }
}

impl Batch {
    /// Packs sequences, in order.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let (mut ids, mut positions, mut cu_len) = (Vec::new(), Vec::new(), vec![0]);
        for sequence in sequences {
            ids.extend_from_slice(sequence);
            positions.extend((0..sequence.len()).map(|p| p as u32));
            cu_len.push(ids.len());
        }
        Batch { ids, positions: positions.into(), cu_len }
    }

    /// Tokens that follow `past` cached ones.
    pub fn continuing(ids: &[u32], past: usize) -> Self {
        let positions = (past..past + ids.len()).map(|p| p as u32).collect();
        Batch { ids: ids.to_vec(), positions, cu_len: vec![0, ids.len()] }
    }

    /// Number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// What every token has to predict: the next token of its sequence, [`paring_ops::IGNORE`] for the last one.
    pub fn next_tokens(&self) -> Vec<u32> {
        let mut targets: Vec<u32> =
            self.ids.iter().skip(1).copied().chain([paring_ops::IGNORE]).take(self.ids.len()).collect();
        for &end in self.cu_len.iter().skip(1).filter(|&&end| 0 < end) {
            targets[end - 1] = paring_ops::IGNORE;
        }
        targets
    }

    /// How many of [`Batch::next_tokens`] are tokens.
    pub fn n_targets(&self) -> usize {
        self.cu_len.windows(2).map(|w| (w[1] - w[0]).saturating_sub(1)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paring_ops::IGNORE;

    #[test]
    fn packing_keeps_positions_and_targets_inside_sequences() {
        let batch = Batch::pack([&[5, 6, 7][..], &[], &[8], &[9, 10]]);
        assert_eq!(batch.ids, [5, 6, 7, 8, 9, 10]);
        assert_eq!(*batch.positions, [0, 1, 2, 0, 0, 1]);
        assert_eq!(batch.cu_len, [0, 3, 3, 4, 6]);
        assert_eq!(batch.next_tokens(), [6, 7, IGNORE, IGNORE, 10, IGNORE]);
        assert_eq!(batch.n_targets(), 3);
        assert_eq!(*Batch::continuing(&[1, 2], 7).positions, [7, 8]);
    }

    #[test]
    fn a_window_is_split_into_its_documents() {
        assert_eq!(split_documents(&[1, 2, 3, 4, 5], &[2, 3]).unwrap(), [&[1, 2][..], &[3, 4, 5]]);
        assert_eq!(split_documents(&[1, 2, 3], &[3]).unwrap(), [[1, 2, 3]]);
        for wrong in [&[2][..], &[4], &[2, 2], &[usize::MAX, 4]] {
            assert_eq!(split_documents(&[1, 2, 3], wrong), None);
        }
    }
}
