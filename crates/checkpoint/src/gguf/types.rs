//! ggml's types: the numbers that files use for them, and their sizes, without which nothing about a tensor can be checked.
use crate::StorageType;

/// A type of ggml.
#[derive(Debug)]
pub(super) struct GgmlType {
    /// Its number in files.
    pub(super) id: u32,
    pub(super) storage: StorageType,
    /// Elements of a block; a row has whole blocks.
    pub(super) block: u64,
    /// Bytes of a block.
    pub(super) bytes: u64,
}

impl GgmlType {
    /// The type with number `id`; `None` for those that ggml took back (4, 5, 31 to 33, 36 to 38) or has not given out.
    pub(super) fn of_id(id: u32) -> Option<&'static GgmlType> {
        TYPES.iter().find(|t| t.id == id)
    }

    pub(super) fn of_storage(storage: StorageType) -> Option<&'static GgmlType> {
        TYPES.iter().find(|t| t.storage == storage)
    }
}

/// The table `type_traits` of ggml.c, by number.
static TYPES: [GgmlType; 34] = [
    of(0, StorageType::F32, 1, 4),
    of(1, StorageType::F16, 1, 2),
    of(2, StorageType::Q4_0, 32, 18),
    of(3, StorageType::Q4_1, 32, 20),
    other(6, "Q5_0", 32, 22),
    other(7, "Q5_1", 32, 24),
    of(8, StorageType::Q8_0, 32, 34),
    other(9, "Q8_1", 32, 36),
    other(10, "Q2_K", 256, 84),
    other(11, "Q3_K", 256, 110),
    other(12, "Q4_K", 256, 144),
    other(13, "Q5_K", 256, 176),
    other(14, "Q6_K", 256, 210),
    other(15, "Q8_K", 256, 292),
    other(16, "IQ2_XXS", 256, 66),
    other(17, "IQ2_XS", 256, 74),
    other(18, "IQ3_XXS", 256, 98),
    other(19, "IQ1_S", 256, 50),
    other(20, "IQ4_NL", 32, 18),
    other(21, "IQ3_S", 256, 110),
    other(22, "IQ2_S", 256, 82),
    other(23, "IQ4_XS", 256, 136),
    other(24, "I8", 1, 1),
    other(25, "I16", 1, 2),
    of(26, StorageType::I32, 1, 4),
    of(27, StorageType::I64, 1, 8),
    of(28, StorageType::F64, 1, 8),
    other(29, "IQ1_M", 256, 56),
    of(30, StorageType::BF16, 1, 2),
    other(34, "TQ1_0", 256, 54),
    other(35, "TQ2_0", 256, 66),
    other(39, "MXFP4", 32, 17),
    other(40, "NVFP4", 64, 36),
    other(41, "Q1_0", 128, 18),
];

const fn of(id: u32, storage: StorageType, block: u64, bytes: u64) -> GgmlType {
    GgmlType { id, storage, block, bytes }
}

const fn other(id: u32, name: &'static str, block: u64, bytes: u64) -> GgmlType {
    of(id, StorageType::Other(name), block, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_itself_and_with_the_types_that_are_read() {
        assert!(TYPES.is_sorted_by(|a, b| a.id < b.id));
        for t in &TYPES {
            if let Some((block, bytes)) = t.storage.block() {
                assert_eq!((block as u64, bytes as u64), (t.block, t.bytes), "{}", t.storage);
            }
            assert_eq!(TYPES.iter().filter(|o| o.storage == t.storage).count(), 1, "{}", t.storage);
        }
        for removed in [4, 5, 31, 32, 33, 36, 37, 38, 42, u32::MAX] {
            assert!(GgmlType::of_id(removed).is_none(), "{removed}");
        }
    }
}
