//! The checks of a safetensors header, before and besides those of the safetensors crate.
use crate::{
    Error, Limits, Result, StorageType,
    checked::{Bounds, Size},
    json::{check_depth, duplicate, syntax},
    shown,
};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor},
};
use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    ops::Range,
    path::Path,
};

/// A tensor of a header that passed all checks.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) storage: StorageType,
    pub(crate) shape: Vec<usize>,
    /// Where its bytes are in the file.
    pub(crate) range: Range<usize>,
}

/// A header that passed all checks.
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) tensors: HashMap<String, Item>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Reads the header of the safetensors file with these `bytes`.
///
/// # Errors
/// [`Error::PastEnd`], [`Error::Limit`], [`Error::Overflow`], [`Error::Malformed`], [`Error::Duplicate`].
pub(crate) fn parse(path: &Path, bytes: &[u8], limits: &Limits) -> Result<Header> {
    let bounds = Bounds::new(path, bytes.len() as u64);
    let prefix = bounds.range("the header's length", Size::ZERO, Size::new(8))?;
    let mut len = [0; 8];
    len.copy_from_slice(&bytes[prefix]);
    let len = Size::new(u64::from_le_bytes(len));
    bounds.at_most("the header's length", len, limits.header_bytes)?;
    let json = bounds.range("the header", Size::new(8), len)?;
    let data = json.end;
    let json = &bytes[json];
    let text = std::str::from_utf8(json)
        .map_err(|e| bounds.malformed("the header", format_args!("is not UTF-8 at byte {}", 8 + e.valid_up_to())))?;
    if !text.starts_with('{') {
        return Err(bounds.malformed("the header", "does not start with `{`; is this a safetensors file?"));
    }
    check_depth(path, json, limits.json_depth)?;

    let mut parser = serde_json::Deserializer::from_str(text);
    let exceeded = Cell::new(None);
    let seed = HeaderSeed { limits, exceeded: &exceeded };
    let raw = seed.deserialize(&mut parser).and_then(|h| parser.end().map(|()| h));
    let raw = raw.map_err(|e| match (exceeded.get(), syntax(path, &e)) {
        (Some((field, limit)), _) => {
            let got = limit.saturating_add(1);
            Error::Limit { path: path.into(), field: field.into(), got, limit }
        }
        (None, Error::Duplicate { path, name, .. }) => Error::Duplicate { path, what: "tensor", name },
        (None, other) => other,
    })?;
    let header = check(&bounds, raw, Size::from(data), limits)?;

    // A second opinion: if the reference implementation refuses the file, so do we, even where our own checks saw nothing.
    safetensors::SafeTensors::read_metadata(bytes).map_err(|e| bounds.malformed("the header", e))?;
    Ok(header)
}

/// Types, sizes and places of all tensors. The data section begins at byte `data`.
fn check(bounds: &Bounds<'_>, raw: RawHeader, data: Size, limits: &Limits) -> Result<Header> {
    let mut tensors = HashMap::with_capacity(raw.tensors.len());
    let mut places = Vec::with_capacity(raw.tensors.len());
    for (name, entry) in raw.tensors {
        let field = |what: &str| format!("{what} of tensor `{}`", shown(&name));
        bounds.at_most(field("the name's length"), Size::from(name.len()), limits.string_bytes)?;
        bounds.at_most(field("the number of dimensions"), Size::from(entry.shape.0.len()), limits.dims)?;
        let (storage, bits) = dtype(&entry.dtype).ok_or_else(|| {
            bounds.malformed(field("the dtype"), format_args!("`{}` is unknown", shown(&entry.dtype)))
        })?;
        let elements = bounds.fits(field("the shape"), Size::product(entry.shape.0.iter().copied()))?;
        let total_bits = bounds.fits(field("the size"), elements.times(bits))?;
        let [begin, end] = entry.data_offsets.map(Size::new);
        let Some(len) = end.minus(begin) else {
            return Err(bounds.malformed(
                field("data_offsets"),
                format_args!("end at {}, before they begin at {}", end.get(), begin.get()),
            ));
        };
        if total_bits.get() % 8 != 0 || len.get() != total_bits.get() / 8 {
            let problem = format!("cover {} bytes, but shape and dtype need {} bits", len.get(), total_bits.get());
            return Err(bounds.malformed(field("data_offsets"), problem));
        }
        let start = bounds.fits(field("data_offsets"), data.plus(begin))?;
        let range = bounds.range(field("the data"), start, len)?;
        // Each dimension is at most the number of elements or stands beside a zero, and both fit `usize` on 64 bits.
        let shape =
            entry.shape.0.iter().map(|&d| bounds.at_most(field("a dimension"), Size::new(d), usize::MAX as u64));
        let shape = shape.collect::<Result<Vec<_>>>()?;
        places.push((range.start, range.end, name.clone()));
        tensors.insert(name, Item { storage, shape, range });
    }
    // The format wants the data covered without overlap and without holes, so that nothing can hide in a file.
    places.sort();
    let mut at = data.get() as usize;
    for (start, end, name) in places {
        if start != at {
            let what = if start < at { "overlaps the tensor before it" } else { "leaves a hole before it" };
            let problem = format!("{what}: begins at byte {start}, expected {at}");
            return Err(bounds.malformed(format_args!("tensor `{}`", shown(&name)), problem));
        }
        at = end;
    }
    if at as u64 != bounds.len().get() {
        let problem = format!("{} bytes after the last tensor belong to none", bounds.len().get() - at as u64);
        return Err(bounds.malformed("the data", problem));
    }
    Ok(Header { tensors, metadata: raw.metadata })
}

/// Type and bits per element of a safetensors dtype.
fn dtype(name: &str) -> Option<(StorageType, u64)> {
    Some(match name {
        "F32" => (StorageType::F32, 32),
        "BF16" => (StorageType::BF16, 16),
        "F16" => (StorageType::F16, 16),
        "F64" => (StorageType::F64, 64),
        "I64" => (StorageType::I64, 64),
        "I32" => (StorageType::I32, 32),
        "U8" => (StorageType::U8, 8),
        "BOOL" => (StorageType::Other("BOOL"), 8),
        "I8" => (StorageType::Other("I8"), 8),
        "F8_E5M2" => (StorageType::Other("F8_E5M2"), 8),
        "F8_E4M3" => (StorageType::Other("F8_E4M3"), 8),
        "F8_E8M0" => (StorageType::Other("F8_E8M0"), 8),
        "F4" => (StorageType::Other("F4"), 4),
        "F6_E2M3" => (StorageType::Other("F6_E2M3"), 6),
        "F6_E3M2" => (StorageType::Other("F6_E3M2"), 6),
        "I16" => (StorageType::Other("I16"), 16),
        "U16" => (StorageType::Other("U16"), 16),
        "U32" => (StorageType::Other("U32"), 32),
        "U64" => (StorageType::Other("U64"), 64),
        "C64" => (StorageType::Other("C64"), 64),
        _ => return None,
    })
}

struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Dims,
    data_offsets: [u64; 2],
}

/// At most 64 dimensions are kept: a shape of a hundred million zeros must not become memory. The caller's limit is checked later.
struct Dims(Vec<u64>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct DimsVisitor;
        impl<'de> Visitor<'de> for DimsVisitor {
            type Value = Dims;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Dims, A::Error> {
                let mut dims = Vec::new();
                while let Some(d) = seq.next_element()? {
                    if dims.len() == 64 {
                        return Err(A::Error::custom("a shape has more than 64 dimensions"));
                    }
                    dims.push(d);
                }
                Ok(Dims(dims))
            }
        }
        d.deserialize_seq(DimsVisitor)
    }
}

/// Which number is above which limit: an error of serde carries only text.
type Exceeded = Cell<Option<(&'static str, u64)>>;

struct HeaderSeed<'a> {
    limits: &'a Limits,
    exceeded: &'a Exceeded,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = RawHeader;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<RawHeader, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
        let mut seen = HashSet::new();
        let mut out = RawHeader { tensors: Vec::new(), metadata: BTreeMap::new() };
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(duplicate(&name));
            }
            if name == "__metadata__" {
                out.metadata = map.next_value_seed(MetadataSeed { limits: self.limits, exceeded: self.exceeded })?;
                continue;
            }
            if self.limits.tensors <= out.tensors.len() as u64 {
                self.exceeded.set(Some(("the number of tensors", self.limits.tensors)));
                return Err(A::Error::custom("too many tensors"));
            }
            let entry = map.next_value::<RawTensor>();
            let entry = entry.map_err(|e| A::Error::custom(format_args!("tensor `{}`: {e}", shown(&name))))?;
            out.tensors.push((name, entry));
        }
        Ok(out)
    }
}

struct MetadataSeed<'a> {
    limits: &'a Limits,
    exceeded: &'a Exceeded,
}

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = BTreeMap<String, String>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut out = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if self.limits.metadata_pairs <= out.len() as u64 {
                self.exceeded.set(Some(("the number of metadata pairs", self.limits.metadata_pairs)));
                return Err(A::Error::custom("too many metadata pairs"));
            }
            if out.contains_key(&key) {
                return Err(duplicate(&key));
            }
            out.insert(key, value);
        }
        Ok(out)
    }
}
