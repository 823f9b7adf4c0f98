//! Element types, and how many bytes their elements take: one by one, or in blocks that share a scale.
use crate::{Error, Result, Shape};
use std::fmt;

/// Element type of a [`crate::Tensor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of a binary32: 8 bits of exponent, 8 of significand.
    BF16,
    /// IEEE 754 binary16.
    F16,
    /// ggml: blocks of 32, an f16 scale and 32 signed bytes. For this and the following see [`crate::block`].
    Q8_0,
    /// ggml: blocks of 32, an f16 scale and 32 times 4 bits around 8.
    Q4_0,
    /// ggml: blocks of 32, an f16 scale, an f16 minimum and 32 times 4 bits.
    Q4_1,
}

impl DType {
    /// The types whose elements lie in blocks.
    pub const QUANTISED: [DType; 3] = [DType::Q8_0, DType::Q4_0, DType::Q4_1];

    /// Elements and bytes of one block: `(1, bytes of an element)` for types without blocks.
    pub const fn block(self) -> (usize, usize) {
        match self {
            DType::F32 => (1, 4),
            DType::BF16 | DType::F16 => (1, 2),
            DType::Q8_0 => (32, 34),
            DType::Q4_0 => (32, 18),
            DType::Q4_1 => (32, 20),
        }
    }

    /// Whether elements lie in blocks.
    pub const fn is_quantised(self) -> bool {
        1 < self.block().0
    }

    /// Bytes of `elements` elements; the last block counts in full.
    pub const fn bytes(self, elements: usize) -> usize {
        let (len, bytes) = self.block();
        elements.div_ceil(len) * bytes
    }

    /// Bytes of a tensor of this shape.
    ///
    /// # Errors
    /// [`Error::Blocks`] when its innermost dimension is not a whole number of blocks.
    pub fn bytes_of(self, shape: Shape) -> Result<usize> {
        let (block, _) = self.block();
        let row = shape.dims().last().copied().unwrap_or(1);
        if !row.is_multiple_of(block) {
            return Err(Error::Blocks { dtype: self, elements: row });
        }
        Ok(self.bytes(shape.elements()))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::Q8_0 => "q8_0",
            DType::Q4_0 => "q4_0",
            DType::Q4_1 => "q4_1",
        })
    }
}
