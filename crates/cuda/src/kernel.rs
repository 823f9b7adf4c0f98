//! Kernels as the host sees them: in which module they are, what arguments they take, and how many threads run them. The argument structs
//! stand beside the operations that launch them; a test holds each against the declaration in the PTX.
use crate::driver::Address;

/// How an argument is declared in PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An address, `.u64`.
    Pointer,
    /// `.u32`.
    U32,
    /// `.u64`.
    U64,
    /// `.f32`.
    F32,
}

impl Kind {
    /// Size and alignment in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Kind::Pointer | Kind::U64 => 8,
            Kind::U32 | Kind::F32 => 4,
        }
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name here; PTX numbers parameters.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Where it lies in the struct, which is where PTX has it.
    pub offset: usize,
}

/// The kernels of one module that take the same arguments.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// The module: `kernels/ptx/<module>.ptx`.
    pub module: &'static str,
    /// The kernels.
    pub entries: &'static [&'static str],
    /// What they take, in order.
    pub fields: &'static [Field],
    /// Size of the struct in bytes.
    pub bytes: usize,
}

/// A type that an argument may have.
pub(crate) trait Argument: bytemuck::NoUninit {
    const KIND: Kind;
}
impl Argument for Address {
    const KIND: Kind = Kind::Pointer;
}
impl Argument for u32 {
    const KIND: Kind = Kind::U32;
}
impl Argument for u64 {
    const KIND: Kind = Kind::U64;
}
impl Argument for f32 {
    const KIND: Kind = Kind::F32;
}

/// The arguments of some kernels, laid out as PTX lays out parameters. Implemented by [`arguments!`] only.
pub(crate) trait Arguments: Copy {
    const SIGNATURE: Signature;
    /// The struct, field by field; bytes between them are zero.
    fn to_bytes(&self) -> Vec<u8>;
}

/// Declares the argument struct of the kernels `entries` in `kernels/ptx/<module>.ptx`.
///
/// ```text
/// arguments! {
///     /// Sets every element.
///     pub(crate) struct Fill in "elementwise" for ["fill_f32"] { y: Address, n: u64, value: f32 }
/// }
/// ```
macro_rules! arguments {
    ($(#[$doc:meta])* $vis:vis struct $name:ident in $module:literal for [$($entry:literal),+ $(,)?] {
        $($(#[$field_doc:meta])* $field:ident: $type:ty),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        $vis struct $name { $($(#[$field_doc])* pub(crate) $field: $type),+ }

        impl $crate::kernel::Arguments for $name {
            const SIGNATURE: $crate::kernel::Signature = $crate::kernel::Signature {
                module: $module,
                entries: &[$($entry),+],
                fields: &[$($crate::kernel::Field {
                    name: stringify!($field),
                    kind: <$type as $crate::kernel::Argument>::KIND,
                    offset: std::mem::offset_of!($name, $field),
                }),+],
                bytes: size_of::<$name>(),
            };

            fn to_bytes(&self) -> Vec<u8> {
                let mut bytes = vec![0; size_of::<$name>()];
                $({
                    let at = std::mem::offset_of!($name, $field);
                    let value = bytemuck::bytes_of(&self.$field);
                    bytes[at..at + value.len()].copy_from_slice(value);
                })+
                bytes
            }
        }
    };
}
pub(crate) use arguments;

/// How many threads run a kernel, and which of its module's kernels that take the same arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// The kernel's name in the PTX.
    pub(crate) entry: &'static str,
    /// Blocks.
    pub(crate) grid: [u32; 3],
    /// Threads of a block.
    pub(crate) block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub(crate) shared: u32,
}

impl Launch {
    /// Blocks and threads along x only, no dynamic shared memory.
    pub(crate) fn linear(entry: &'static str, blocks: u32, threads: u32) -> Launch {
        Launch { entry, grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
    }

    /// As many blocks of `threads` as `items` need, of which each thread takes `each`; never more than `most`: kernels that are launched so
    /// walk on by the size of the grid.
    pub(crate) fn over(entry: &'static str, items: usize, each: usize, threads: u32, most: u32) -> Launch {
        let blocks = items.div_ceil(each.max(1) * threads.max(1) as usize);
        Launch::linear(entry, u32::try_from(blocks).unwrap_or(u32::MAX).min(most), threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    arguments! {
        struct Mixed in "m" for ["a", "b"] { x: Address, n: u32, total: u64, factor: f32 }
    }

    #[test]
    fn fields_lie_where_ptx_lays_out_parameters() {
        let signature = Mixed::SIGNATURE;
        assert_eq!(signature.fields.iter().map(|f| f.offset).collect::<Vec<_>>(), [0, 8, 16, 24]);
        let bytes = Mixed { x: Address(0x1122), n: 7, total: 9, factor: 1.0 }.to_bytes();
        assert_eq!(bytes.len(), signature.bytes);
        assert_eq!((bytes[0], bytes[1], bytes[8], bytes[12], bytes[16], bytes[27]), (0x22, 0x11, 7, 0, 9, 0x3f));
    }

    #[test]
    fn grids_cover_and_stay_below_the_most() {
        assert_eq!(Launch::over("e", 1025, 4, 256, 100).grid, [2, 1, 1]);
        assert_eq!(Launch::over("e", 1 << 40, 4, 256, 100).grid, [100, 1, 1]);
        assert_eq!(Launch::over("e", 0, 4, 256, 100).grid, [0, 1, 1]);
    }
}
