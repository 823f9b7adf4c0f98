//! What can be wrong with a tensor before any arithmetic starts.
use crate::{DType, Shape};
use std::fmt;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error about a tensor's buffer, type or shape.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The product of the dimensions, in bytes, does not fit `usize`.
    TooLarge {
        /// The dimensions asked for.
        dims: Vec<usize>,
    },
    /// More dimensions than [`Shape::MAX_RANK`].
    Rank {
        /// The number asked for.
        got: usize,
    },
    /// The number of values differs from the shape's number of elements.
    Length {
        /// Values given.
        got: usize,
        /// Elements in the shape.
        want: usize,
    },
    /// A range of rows that the tensor does not have.
    Rows {
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
        /// The tensor's shape.
        shape: Shape,
    },
    /// First columns of a tensor that has no such view.
    Columns {
        /// Columns asked for.
        columns: usize,
        /// The tensor's type.
        dtype: DType,
        /// The tensor's shape.
        shape: Shape,
    },
    /// A view of columns where only a contiguous tensor will do.
    Strided {
        /// The view's shape.
        shape: Shape,
    },
    /// The element type differs from what the caller needs.
    DType {
        /// What the tensor holds.
        got: DType,
        /// What was needed.
        want: DType,
    },
    /// A row, or where a view of rows begins or ends, is not a whole number of the type's blocks.
    Blocks {
        /// The type.
        dtype: DType,
        /// Elements.
        elements: usize,
    },
    /// The buffer belongs to another backend.
    ForeignBuffer,
    /// The buffer is shared, so nobody may write to it.
    Aliased,
    /// The allocator refused.
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TooLarge { dims } => write!(f, "a tensor of shape {dims:?} does not fit the address space"),
            Error::Rank { got } => write!(f, "{got} dimensions, expected at most {}", Shape::MAX_RANK),
            Error::Length { got, want } => write!(f, "{got} values for a shape of {want} elements"),
            Error::Rows { start, end, shape } => write!(f, "rows {start}..{end} of a tensor of shape {shape}"),
            Error::Columns { columns, dtype, shape } => {
                write!(
                    f,
                    "the first {columns} columns of a {dtype} tensor of shape {shape}, expected at most as many as a matrix of plain numbers has"
                )
            }
            Error::Strided { shape } => {
                write!(f, "a view {shape} of the first columns of a matrix, expected a contiguous tensor")
            }
            Error::DType { got, want } => write!(f, "element type {got}, expected {want}"),
            Error::Blocks { dtype, elements } => {
                let (block, _) = dtype.block();
                write!(f, "{elements} elements in a row of {dtype}, expected a multiple of {block}")
            }
            Error::ForeignBuffer => write!(f, "the tensor's buffer belongs to another backend"),
            Error::Aliased => write!(f, "the output tensor is shared and cannot be written"),
            Error::OutOfMemory { bytes } => write!(f, "cannot allocate {bytes} bytes"),
        }
    }
}

impl std::error::Error for Error {}
