//! Everything before the tensors of a GGUF, read once at opening and checked completely: after that, a tensor's name is as good as its
//! bytes. Metadata are copied out of the map, so that no text changes under a caller's hands.
use super::{
    ALIGNMENT_KEY, ALIGNMENTS, DEFAULT_ALIGNMENT, MOST_DIMS, is_alignment,
    types::GgmlType,
    value::{ARRAY_ID, Array, Strings, Value},
};
use crate::{
    Error, Limits, Result, StorageType,
    checked::{Bounds, Size},
    shown,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Display,
    io,
    ops::Range,
    path::Path,
};

/// A tensor of a header that passed all checks.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) storage: StorageType,
    /// Outermost first.
    pub(super) shape: Vec<usize>,
    /// Where its bytes are in the file.
    pub(super) range: Range<usize>,
}

/// A header that passed all checks.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, Item>,
}

/// The least that the file spends on a metadata pair (length of the key, type, one byte) and on a tensor's description (length of the
/// name, number of dimensions, one dimension, type, offset).
const PAIR_BYTES: u64 = 8 + 4 + 1;
const TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// Reads the header of the GGUF with these `bytes`.
///
/// # Errors
/// [`Error::PastEnd`], [`Error::Limit`], [`Error::Overflow`], [`Error::Malformed`], [`Error::Unsupported`], [`Error::Duplicate`],
/// [`Error::KeyType`] for an alignment of another type than u32, [`Error::Read`] when memory is short.
pub(super) fn parse(path: &Path, bytes: &[u8], limits: &Limits) -> Result<Header> {
    let mut cursor = Cursor { bytes, bounds: Bounds::new(path, bytes.len() as u64), at: 0, limits };
    let bounds = cursor.bounds;
    let magic = cursor.take("the magic", 4)?;
    if magic != b"GGUF" {
        let got = shown(&String::from_utf8_lossy(magic));
        return Err(bounds.malformed("the magic", format_args!("is `{got}`, expected `GGUF`; is this a GGUF file?")));
    }
    let version = cursor.u32("the version")?;
    check_version(path, version)?;
    let tensors = Size::new(cursor.u64("the number of tensors")?);
    let pairs = Size::new(cursor.u64("the number of metadata pairs")?);
    let tensors = cursor.count("the number of tensors", tensors, limits.tensors, TENSOR_BYTES)?;
    let pairs = cursor.count("the number of metadata pairs", pairs, limits.metadata_pairs, PAIR_BYTES)?;

    let mut metadata = BTreeMap::new();
    for i in 0..pairs {
        let key = cursor.name(format_args!("the key of metadata pair {i}"))?;
        match metadata.entry(key) {
            Entry::Occupied(old) => {
                return Err(Error::Duplicate { path: path.into(), what: "metadata key", name: old.key().clone() });
            }
            Entry::Vacant(free) => {
                let value = cursor.value(free.key())?;
                free.insert(value);
            }
        }
    }
    let alignment = alignment(&bounds, metadata.get(ALIGNMENT_KEY))?;

    let mut described = BTreeMap::new();
    for i in 0..tensors {
        let name = cursor.name(format_args!("the name of tensor {i}"))?;
        match described.entry(name) {
            Entry::Occupied(old) => {
                return Err(Error::Duplicate { path: path.into(), what: "tensor", name: old.key().clone() });
            }
            Entry::Vacant(free) => {
                let tensor = cursor.tensor(free.key())?;
                free.insert(tensor);
            }
        }
    }
    let data = bounds.fits("the start of the data", Size::from(cursor.at).aligned(alignment))?;
    Ok(Header { version, metadata, tensors: place(&bounds, described, data, alignment)? })
}

fn check_version(path: &Path, version: u32) -> Result<()> {
    let what = match version {
        2 | 3 => return Ok(()),
        1 => "is GGUF version 1, expected 2 or 3; convert it again with a current llama.cpp".into(),
        // A small number read in the wrong order of bytes.
        _ if version & 0xffff == 0 && version != 0 => {
            "is a big-endian GGUF, expected little-endian; convert it with gguf_convert_endian.py of llama.cpp".into()
        }
        _ => format!("is GGUF version {version}, expected 2 or 3"),
    };
    Err(Error::Unsupported { path: path.into(), what })
}

fn alignment(bounds: &Bounds<'_>, value: Option<&Value>) -> Result<u64> {
    match value {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(n)) if is_alignment(n.into()) => Ok(n.into()),
        Some(Value::U32(n)) => {
            let (low, high) = (ALIGNMENTS.start(), ALIGNMENTS.end());
            let problem = format!("is {n}, expected a power of two from {low} to {high}");
            Err(bounds.malformed(format_args!("metadata key `{ALIGNMENT_KEY}`"), problem))
        }
        Some(other) => {
            let (path, key, got) = (bounds.path().into(), ALIGNMENT_KEY.into(), other.type_name().into());
            Err(Error::KeyType { path, key, want: "a u32", got })
        }
    }
}

/// A tensor's description, before its place is known.
struct Described {
    storage: StorageType,
    shape: Vec<usize>,
    bytes: Size,
    offset: Size,
}

/// Gives every tensor its place in the file: aligned, inside, and nobody else's.
fn place(
    bounds: &Bounds<'_>,
    described: BTreeMap<String, Described>,
    data: Size,
    alignment: u64,
) -> Result<BTreeMap<String, Item>> {
    let mut tensors = BTreeMap::new();
    for (name, Described { storage, shape, bytes, offset }) in described {
        let field = |what| format!("{what} of tensor `{}`", shown(&name));
        if offset.get() % alignment != 0 {
            let problem = format!("is {}, expected a multiple of the alignment {alignment}", offset.get());
            return Err(bounds.malformed(field("the offset"), problem));
        }
        let start = bounds.fits(field("the offset"), data.plus(offset))?;
        let range = bounds.range(field("the data"), start, bytes)?;
        tensors.insert(name, Item { storage, shape, range });
    }
    let mut places: Vec<(&Range<usize>, &str)> =
        tensors.iter().map(|(name, item)| (&item.range, name.as_str())).collect();
    places.sort_by_key(|(range, _)| range.start);
    for pair in places.windows(2) {
        let [(before, first), (range, name)] = pair else { continue };
        if range.start < before.end {
            let problem = format!("begins at byte {}, inside of tensor `{}`", range.start, shown(first));
            return Err(bounds.malformed(format_args!("tensor `{}`", shown(name)), problem));
        }
    }
    Ok(tensors)
}

/// Reads from the front of the file; whatever it hands out lies in the file and within the limits.
struct Cursor<'a> {
    bytes: &'a [u8],
    bounds: Bounds<'a>,
    at: usize,
    limits: &'a Limits,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, field: impl Display, len: u64) -> Result<&'a [u8]> {
        let range = self.bounds.range(field, Size::from(self.at), Size::new(len))?;
        self.bounds.at_most("the header's length", Size::from(range.end), self.limits.header_bytes)?;
        self.at = range.end;
        Ok(&self.bytes[range])
    }

    fn fixed<const N: usize>(&mut self, field: impl Display) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(field, N as u64)?);
        Ok(out)
    }

    fn u32(&mut self, field: impl Display) -> Result<u32> {
        self.fixed(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: impl Display) -> Result<u64> {
        self.fixed(field).map(u64::from_le_bytes)
    }

    /// A number of things that the rest of the file has room for.
    fn count(&self, field: impl Display, got: Size, limit: u64, each: u64) -> Result<usize> {
        self.bounds.count(field, got, limit, Size::from(self.at), each)
    }

    /// A length and that many bytes of UTF-8.
    fn text(&mut self, field: impl Display) -> Result<&'a str> {
        let len = Size::new(self.u64(format_args!("the length of {field}"))?);
        let len = self.count(format_args!("the length of {field}"), len, self.limits.string_bytes, 1)?;
        let bytes = self.take(&field, len as u64)?;
        let problem =
            |e: std::str::Utf8Error| format!("is not UTF-8 at byte {} of its {len}, expected text", e.valid_up_to());
        std::str::from_utf8(bytes).map_err(|e| self.bounds.malformed(field, problem(e)))
    }

    fn name(&mut self, field: impl Display) -> Result<String> {
        match self.text(&field)? {
            "" => Err(self.bounds.malformed(field, "is empty, expected a name")),
            name => Ok(name.into()),
        }
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let key = shown(key);
        let field = format_args!("metadata key `{key}`");
        let id = self.u32(format_args!("the type of metadata key `{key}`"))?;
        Ok(match id {
            0 => Value::U8(u8::from_le_bytes(self.fixed(field)?)),
            1 => Value::I8(i8::from_le_bytes(self.fixed(field)?)),
            2 => Value::U16(u16::from_le_bytes(self.fixed(field)?)),
            3 => Value::I16(i16::from_le_bytes(self.fixed(field)?)),
            4 => Value::U32(u32::from_le_bytes(self.fixed(field)?)),
            5 => Value::I32(i32::from_le_bytes(self.fixed(field)?)),
            6 => Value::F32(f32::from_le_bytes(self.fixed(field)?)),
            7 => Value::Bool(self.bools(field, 1)?.first() == Some(&true)),
            8 => Value::Str(self.text(field)?.into()),
            ARRAY_ID => Value::Array(self.array(field)?),
            10 => Value::U64(u64::from_le_bytes(self.fixed(field)?)),
            11 => Value::I64(i64::from_le_bytes(self.fixed(field)?)),
            12 => Value::F64(f64::from_le_bytes(self.fixed(field)?)),
            _ => {
                let field = format_args!("the type of metadata key `{key}`");
                return Err(self.bounds.malformed(field, format_args!("is {id}, expected 0 to 12")));
            }
        })
    }

    fn array(&mut self, field: impl Display) -> Result<Array> {
        let id = self.u32(format_args!("the element type of {field}"))?;
        let len = Size::new(self.u64(format_args!("the length of {field}"))?);
        let each = match id {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            // A string has at least its length.
            8 | 10..=12 => 8,
            ARRAY_ID => {
                return Err(self
                    .bounds
                    .malformed(field, "is an array of arrays, expected an array of numbers, bools or strings"));
            }
            _ => {
                let field = format_args!("the element type of {field}");
                return Err(self.bounds.malformed(field, format_args!("is {id}, expected 0 to 12 except 9")));
            }
        };
        let len = self.count(format_args!("the length of {field}"), len, self.limits.array_len, each)?;
        Ok(match id {
            0 => Array::U8(self.list(field, len, u8::from_le_bytes)?),
            1 => Array::I8(self.list(field, len, i8::from_le_bytes)?),
            2 => Array::U16(self.list(field, len, u16::from_le_bytes)?),
            3 => Array::I16(self.list(field, len, i16::from_le_bytes)?),
            4 => Array::U32(self.list(field, len, u32::from_le_bytes)?),
            5 => Array::I32(self.list(field, len, i32::from_le_bytes)?),
            6 => Array::F32(self.list(field, len, f32::from_le_bytes)?),
            7 => Array::Bool(self.bools(field, len)?),
            10 => Array::U64(self.list(field, len, u64::from_le_bytes)?),
            11 => Array::I64(self.list(field, len, i64::from_le_bytes)?),
            12 => Array::F64(self.list(field, len, f64::from_le_bytes)?),
            _ => Array::Str(self.strings(field, len)?),
        })
    }

    /// `len` numbers of `N` bytes; that they are in the file is known.
    fn list<T, const N: usize>(&mut self, field: impl Display, len: usize, read: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let bytes = self.take(field, len as u64 * N as u64)?;
        let mut out = Vec::new();
        out.try_reserve_exact(len).map_err(|_| self.no_memory())?;
        out.extend(bytes.as_chunks().0.iter().map(|&b| read(b)));
        Ok(out)
    }

    fn bools(&mut self, field: impl Display, len: usize) -> Result<Vec<bool>> {
        let bytes = self.list(&field, len, u8::from_le_bytes)?;
        match bytes.iter().find(|&&b| 1 < b) {
            None => Ok(bytes.into_iter().map(|b| b == 1).collect()),
            Some(b) => Err(self.bounds.malformed(field, format_args!("holds a bool of {b}, expected 0 or 1"))),
        }
    }

    fn strings(&mut self, field: impl Display, len: usize) -> Result<Strings> {
        let mut out = Strings::default();
        out.try_reserve(len).map_err(|_| self.no_memory())?;
        for i in 0..len {
            let s = self.text(format_args!("string {i} of {field}"))?;
            out.try_push(s).map_err(|_| self.no_memory())?;
        }
        Ok(out)
    }

    fn no_memory(&self) -> Error {
        Error::Read { path: self.bounds.path().into(), source: io::ErrorKind::OutOfMemory.into() }
    }

    fn tensor(&mut self, name: &str) -> Result<Described> {
        let bounds = self.bounds;
        let name = shown(name);
        let field = |what| format!("{what} of tensor `{name}`");
        let n_dims = u64::from(self.u32(field("the number of dimensions"))?);
        let most = MOST_DIMS.min(self.limits.dims);
        let n_dims = bounds.at_most(field("the number of dimensions"), Size::new(n_dims), most)?;
        if n_dims == 0 {
            return Err(bounds.malformed(field("the number of dimensions"), format_args!("is 0, expected 1 to {most}")));
        }
        let mut dims = [0; MOST_DIMS as usize];
        let dims = &mut dims[..n_dims];
        for dim in &mut *dims {
            *dim = self.u64(field("a dimension"))?;
            if *dim == 0 {
                return Err(bounds.malformed(field("a dimension"), "is 0, expected at least 1"));
            }
        }
        let id = self.u32(field("the type"))?;
        let offset = Size::new(self.u64(field("the offset"))?);
        let Some(kind) = GgmlType::of_id(id) else {
            let problem =
                format!("is number {id} of ggml, which is unknown here or no longer in use; convert the model again");
            return Err(bounds.malformed(field("the type"), problem));
        };
        let (row, block) = (dims[0], kind.block);
        if row % block != 0 {
            let problem = format!("has {row} elements, expected a multiple of {block}, a block of {}", kind.storage);
            return Err(bounds.malformed(field("a row"), problem));
        }
        let elements = bounds.fits(field("the shape"), Size::product(dims.iter().copied()))?;
        // Whole blocks, because a row has whole blocks.
        let bytes = bounds.fits(field("the size"), Size::new(elements.get() / block).times(kind.bytes))?;
        // No dimension is larger than their product, and a product larger than the file is refused with the place.
        let shape = dims.iter().rev().map(|&d| bounds.at_most(field("a dimension"), Size::new(d), usize::MAX as u64));
        Ok(Described { storage: kind.storage, shape: shape.collect::<Result<_>>()?, bytes, offset })
    }
}
