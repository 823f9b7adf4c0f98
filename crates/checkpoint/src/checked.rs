//! Sizes that files declare. Every count, length and offset read from a file is a [`Size`], and becomes a `usize` only through
//! [`Bounds`], which holds it against the file's length or a limit. Nothing is allocated on the word of a header before that.
use crate::{Error, Result};
use std::{fmt::Display, ops::Range, path::Path};

/// What is accepted from a file, whatever it declares. All fields have defaults; a caller may change them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a header: the JSON of a safetensors file, or all of a GGUF before its tensor data. The safetensors crate itself stops at 100 MB.
    pub header_bytes: u64,
    /// Tensors in one file.
    pub tensors: u64,
    /// Dimensions of one tensor.
    pub dims: u64,
    /// Bytes of one string. A tokenizer of a GGUF is an array of many.
    pub string_bytes: u64,
    /// How deep JSON may be nested.
    pub json_depth: usize,
    /// Metadata pairs in one file.
    pub metadata_pairs: u64,
    /// Elements of one metadata array.
    pub array_len: u64,
    /// Bytes of a JSON file beside the weights (config, index, tokenizer).
    pub json_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: 100_000_000,
            tensors: 1_000_000,
            dims: 8,
            string_bytes: 1 << 20,
            json_depth: 64,
            metadata_pairs: 1_000_000,
            array_len: 10_000_000,
            json_bytes: 100_000_000,
        }
    }
}

/// A number of bytes or things that a file declared. Arithmetic on it cannot wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// Nothing.
    pub const ZERO: Size = Size(0);

    /// The number as read.
    pub const fn new(n: u64) -> Self {
        Size(n)
    }

    /// The number itself, for messages and comparisons.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// `self + other`, unless it does not fit.
    pub const fn plus(self, other: Size) -> Option<Size> {
        match self.0.checked_add(other.0) {
            Some(n) => Some(Size(n)),
            None => None,
        }
    }

    /// `self - other`, unless it is negative.
    pub const fn minus(self, other: Size) -> Option<Size> {
        match self.0.checked_sub(other.0) {
            Some(n) => Some(Size(n)),
            None => None,
        }
    }

    /// `self * n`, unless it does not fit.
    pub const fn times(self, n: u64) -> Option<Size> {
        match self.0.checked_mul(n) {
            Some(n) => Some(Size(n)),
            None => None,
        }
    }

    /// The next multiple of `alignment`, unless it does not fit or `alignment` is zero.
    pub const fn aligned(self, alignment: u64) -> Option<Size> {
        match self.0.checked_next_multiple_of(alignment) {
            Some(n) => Some(Size(n)),
            None => None,
        }
    }

    /// The product of `dims`, unless it does not fit. A zero does not hide an overflow before it.
    pub fn product(dims: impl IntoIterator<Item = u64>) -> Option<Size> {
        dims.into_iter().try_fold(Size(1), Size::times)
    }
}

impl From<usize> for Size {
    fn from(n: usize) -> Self {
        Size(n as u64)
    }
}

/// A file's name and length, which every declared size is held against.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    path: &'a Path,
    len: Size,
}

impl<'a> Bounds<'a> {
    /// Bounds of the file at `path`, which has `len` bytes.
    pub fn new(path: &'a Path, len: u64) -> Self {
        Bounds { path, len: Size(len) }
    }

    /// The file.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// The file's length.
    pub fn len(&self) -> Size {
        self.len
    }

    /// True when the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len == Size::ZERO
    }

    /// The result of checked arithmetic.
    ///
    /// # Errors
    /// [`Error::Overflow`] when there is none.
    pub fn fits<T>(&self, field: impl Display, result: Option<T>) -> Result<T> {
        result.ok_or_else(|| Error::Overflow { path: self.path.into(), field: field.to_string() })
    }

    /// Bytes `start .. start + len` of the file.
    ///
    /// # Errors
    /// [`Error::Overflow`] or [`Error::PastEnd`].
    pub fn range(&self, field: impl Display, start: Size, len: Size) -> Result<Range<usize>> {
        let end = self.fits(&field, start.plus(len))?;
        if self.len < end {
            let field = field.to_string();
            return Err(Error::PastEnd { path: self.path.into(), field, end: end.0, len: self.len.0 });
        }
        // The file is mapped, so its length fits `usize`; start and end are not larger.
        Ok(start.0 as usize..end.0 as usize)
    }

    /// `got`, when it is at most `limit`.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn at_most(&self, field: impl Display, got: Size, limit: u64) -> Result<usize> {
        match usize::try_from(got.0) {
            Ok(n) if got.0 <= limit => Ok(n),
            _ => Err(Error::Limit { path: self.path.into(), field: field.to_string(), got: got.0, limit }),
        }
    }

    /// A count of things that take at least `each` bytes, all of them after byte `start`.
    ///
    /// # Errors
    /// [`Error::Limit`], or [`Error::PastEnd`] when the rest of the file is too short for so many.
    pub fn count(&self, field: impl Display, got: Size, limit: u64, start: Size, each: u64) -> Result<usize> {
        let n = self.at_most(&field, got, limit)?;
        let bytes = self.fits(&field, got.times(each))?;
        self.range(field, start, bytes)?;
        Ok(n)
    }

    /// A format violation of this file.
    pub fn malformed(&self, field: impl Display, problem: impl Display) -> Error {
        Error::Malformed { path: self.path.into(), field: field.to_string(), problem: problem.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_wraps() {
        let max = Size::new(u64::MAX);
        assert_eq!(max.plus(Size::new(1)), None);
        assert_eq!(max.times(2), None);
        assert_eq!(max.aligned(32), None);
        assert_eq!(Size::new(5).aligned(0), None);
        assert_eq!(Size::ZERO.minus(Size::new(1)), None);
        assert_eq!(Size::product([1 << 32, 1 << 32, 0]), None);
        assert_eq!(Size::product([]), Some(Size::new(1)));
        assert_eq!(Size::new(33).aligned(32), Some(Size::new(64)));
    }

    proptest! {
        #[test]
        fn a_range_that_is_accepted_lies_in_the_file(start: u64, len: u64, file in 0u64..1 << 40) {
            let bounds = Bounds::new(Path::new("f"), file);
            // Half of the cases are near the file's length, where the mistakes are.
            for (start, len) in [(start, len), (start % (file + 2), len % (file + 2))] {
                let fits = u128::from(start) + u128::from(len) <= u128::from(file);
                match bounds.range("x", Size::new(start), Size::new(len)) {
                    Ok(range) => prop_assert!(fits && range == (start as usize..(start + len) as usize)),
                    Err(Error::PastEnd { .. } | Error::Overflow { .. }) => prop_assert!(!fits),
                    Err(e) => prop_assert!(false, "{e}"),
                }
            }
        }

        #[test]
        fn a_count_that_is_accepted_fits_the_rest_of_the_file(n: u64, each in 1u64..100, start in 0u64..1000, limit: u64) {
            let bounds = Bounds::new(Path::new("f"), 1000);
            let fits = n <= limit && u128::from(n) * u128::from(each) + u128::from(start) <= 1000;
            prop_assert_eq!(bounds.count("x", Size::new(n), limit, Size::new(start), each).is_ok(), fits);
            let small = n % 50;
            let fits = small <= limit && small * each + start <= 1000;
            prop_assert_eq!(bounds.count("x", Size::new(small), limit, Size::new(start), each).is_ok(), fits);
        }
    }
}
