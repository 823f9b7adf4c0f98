//! Which windows of a text were seen: every N-th of them, from several shards. Two coverages of the same windows are written alike, so that
//! merged shards and one run make the same file.
use crate::error::{Failure, Result};

/// More windows than this are not believed: sixteen million windows are eight thousand million tokens.
const MOST: usize = 1 << 24;

/// A set of windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Coverage(Vec<bool>);

/// `I/N`: windows I, I+N, I+2N, ..., counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) i: usize,
    pub(crate) n: usize,
}

impl Shard {
    /// All windows.
    pub(crate) const WHOLE: Shard = Shard { i: 1, n: 1 };

    pub(crate) fn parse(text: &str) -> Result<Shard> {
        let numbers = text.split_once('/').map(|(i, n)| (i.parse(), n.parse()));
        match numbers {
            Some((Ok(i), Ok(n))) if 1 <= i && i <= n => Ok(Shard { i, n }),
            _ => Err(Failure::input(format!(
                "--shard {}: expected I/N, part I of N with I from 1 to N: 1/4",
                paring_checkpoint::shown(text)
            ))),
        }
    }

    /// Its part of `all`.
    pub(crate) fn of<T>(self, all: Vec<T>) -> Vec<T> {
        all.into_iter().skip(self.i - 1).step_by(self.n).collect()
    }
}

impl Coverage {
    /// The windows of a shard of `windows` of them.
    pub(crate) fn of(shard: Shard, windows: usize) -> Coverage {
        Coverage((0..windows).map(|w| w % shard.n == shard.i - 1).collect())
    }

    /// Windows there are, seen or not.
    pub(crate) fn windows(&self) -> usize {
        self.0.len()
    }

    /// Windows seen.
    pub(crate) fn seen(&self) -> usize {
        self.0.iter().filter(|&&seen| seen).count()
    }

    /// Adds the windows of `other`; the number of a window, counted from 1, that both have is an error.
    pub(crate) fn add(&mut self, other: &Coverage) -> std::result::Result<(), usize> {
        if let Some(both) = self.0.iter().zip(&other.0).position(|(a, b)| *a && *b) {
            return Err(both + 1);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
        Ok(())
    }

    /// `1,2/3`: parts 1 and 2 of 3, with the smallest number of parts that says it.
    pub(crate) fn text(&self) -> String {
        let windows = self.0.len().max(1);
        // With as many parts as windows every set can be said.
        let says = |n: usize| (n..self.0.len()).all(|w| self.0[w] == self.0[w - n]);
        let n = (1..windows).find(|&n| says(n)).unwrap_or(windows);
        let parts = (0..n).filter(|&r| self.0.get(r) == Some(&true)).map(|r| (r + 1).to_string());
        format!("{}/{n}", parts.collect::<Vec<_>>().join(","))
    }

    /// What [`Coverage::text`] wrote for so many windows; `None` for anything else.
    pub(crate) fn parse(text: &str, windows: usize) -> Option<Coverage> {
        let (parts, n) = text.split_once('/')?;
        let n: usize = n.parse().ok().filter(|n| (1..=windows.max(1)).contains(n))?;
        if windows == 0 || MOST < windows {
            return None;
        }
        let mut seen = vec![false; windows];
        for part in parts.split(',') {
            let part: usize = part.parse().ok().filter(|p| (1..=n).contains(p))?;
            seen.iter_mut().skip(part - 1).step_by(n).for_each(|s| *s = true);
        }
        let coverage = Coverage(seen);
        (coverage.text() == text).then_some(coverage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shards: &[(usize, usize)], windows: usize) -> Coverage {
        let mut all = Coverage(vec![false; windows]);
        shards.iter().for_each(|&(i, n)| all.add(&Coverage::of(Shard { i, n }, windows)).unwrap());
        all
    }

    #[test]
    fn the_same_windows_are_written_alike() {
        for (shards, windows, text) in [
            (&[(1, 1)][..], 7, "1/1"),
            (&[(1, 2), (2, 2)], 7, "1/1"),
            (&[(2, 2), (1, 4), (3, 4)], 7, "1/1"),
            (&[(1, 4), (3, 4)], 8, "1/2"),
            (&[(3, 3), (1, 3)], 8, "1,3/3"),
            (&[(2, 6)], 4, "2/4"),
            (&[(1, 1)], 1, "1/1"),
        ] {
            let coverage = of(shards, windows);
            assert_eq!(coverage.text(), text, "{shards:?} of {windows}");
            assert_eq!(Coverage::parse(text, windows), Some(coverage));
        }
        assert_eq!((of(&[(2, 3)], 8).seen(), of(&[(2, 3)], 8).windows()), (3, 8));
    }

    #[test]
    fn windows_are_not_seen_twice() {
        let mut all = of(&[(1, 3)], 9);
        assert_eq!(all.add(&of(&[(1, 3)], 9)), Err(1));
        assert_eq!(all.add(&of(&[(2, 2)], 9)), Err(4));
        assert_eq!(all, of(&[(1, 3)], 9));
    }

    #[test]
    fn what_nobody_writes_is_refused() {
        for (text, windows) in [
            ("", 3),
            ("1", 3),
            ("1/", 3),
            ("/1", 3),
            ("0/2", 3),
            ("3/2", 3),
            ("1,2/2", 3),
            ("1/4", 3),
            ("1/1", 0),
            ("1/1", MOST + 1),
        ] {
            assert_eq!(Coverage::parse(text, windows), None, "{text} of {windows}");
        }
        for text in ["", "1", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/3/5", "1.0/3"] {
            let error = Shard::parse(text).unwrap_err();
            assert!(error.code == 2 && error.message.contains("expected I/N"), "{text}: {error}");
        }
        assert_eq!(Shard::parse("2/3").unwrap().of((0..8).collect()), [1, 4, 7]);
        assert_eq!(Shard::parse("5/5").unwrap().of(vec![0, 1]), [] as [i32; 0]);
    }
}
