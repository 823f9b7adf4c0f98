//! Writing a GGUF of version 3, tensor after tensor: the header first, from what was announced, then the data, of which never more
//! than one tensor is in memory.
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MOST_DIMS,
    block::{self, dequantize_q4_0, dequantize_q4_1, dequantize_q8_0, quantize_q4_0, quantize_q4_1, quantize_q8_0},
    is_alignment,
    types::GgmlType,
    value::{Array, Value},
};
use crate::{
    Error, Result, StorageType, TensorSpec,
    checked::{Bounds, Size},
};
use half::{bf16, f16};
use std::{
    collections::HashSet,
    io::Write,
    path::{Path, PathBuf},
};

/// Writes a GGUF to any writer; for a file, take the one of [`atomic`](crate::atomic).
///
/// ```
/// use paring_checkpoint::{Gguf, Limits, StorageType, TensorSource, TensorSpec, atomic, gguf::GgufWriter};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("tiny.gguf");
/// let specs = [TensorSpec::new("token_embd.weight", StorageType::Q8_0, [2, 32])];
/// let metadata = [("general.architecture", "llama".into()), ("llama.block_count", 1u32.into())];
/// let mut writer = GgufWriter::new(Vec::new(), &path, &metadata, &specs)?;
/// writer.values("token_embd.weight", &[0.5; 64])?;
/// atomic::write_bytes(&path, &writer.finish()?)?;
///
/// let gguf = Gguf::open(&path, &Limits::default())?;
/// assert_eq!(gguf.get_u32("llama.block_count")?, 1);
/// assert_eq!(gguf.info("token_embd.weight").unwrap().shape, [2, 32]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct GgufWriter<W: Write> {
    writer: W,
    path: PathBuf,
    specs: Vec<TensorSpec>,
    alignment: u64,
    next: usize,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header. `path` is for messages; metadata and tensors keep their order, and convention puts `general.architecture`
    /// first. The alignment is that of the key `general.alignment`, or 32.
    ///
    /// # Errors
    /// [`Error::Announced`] for what [`Gguf::open`](super::Gguf::open) would refuse: an empty name or one that appears twice, a shape
    /// without dimensions, with more than four or with a zero, a type that ggml does not have, a row that is not whole blocks, a wrong
    /// alignment. [`Error::Overflow`], [`Error::Write`].
    pub fn new(mut writer: W, path: &Path, metadata: &[(&str, Value)], specs: &[TensorSpec]) -> Result<Self> {
        let alignment = alignment(path, metadata)?;
        let header = header(path, metadata, specs, alignment)?;
        let write = |source| Error::Write { path: path.into(), action: "write the header", source };
        writer.write_all(&header).map_err(write)?;
        Ok(GgufWriter { writer, path: path.into(), specs: specs.into(), alignment, next: 0 })
    }

    /// Writes the next tensor from its values in row-major order, rounded or quantised as announced: to F32, F16, BF16, Q8_0, Q4_0 or
    /// Q4_1.
    ///
    /// # Errors
    /// [`Error::Announced`] when another one is next, the number of values differs or the type is another; [`Error::NonFinite`] when
    /// a value is, or becomes so in the type announced (1e6 is no f16); [`Error::Write`].
    pub fn values(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let spec = self.expect(name)?;
        let want: usize = spec.shape.iter().product();
        if values.len() != want {
            return Err(announced(&self.path, name, format!("has {} values, but {want} were announced", values.len())));
        }
        let encoded = match spec.storage {
            StorageType::F32 => one_by_one(values, f32::to_le_bytes, f32::from_le_bytes),
            StorageType::F16 => {
                one_by_one(values, |v| f16::from_f32(v).to_le_bytes(), |b| f16::from_le_bytes(b).to_f32())
            }
            StorageType::BF16 => {
                one_by_one(values, |v| bf16::from_f32(v).to_le_bytes(), |b| bf16::from_le_bytes(b).to_f32())
            }
            StorageType::Q8_0 => in_blocks(values, quantize_q8_0, dequantize_q8_0),
            StorageType::Q4_0 => in_blocks(values, quantize_q4_0, dequantize_q4_0),
            StorageType::Q4_1 => in_blocks(values, quantize_q4_1, dequantize_q4_1),
            other => {
                let problem =
                    format!("numbers are not rounded to {other}, only to F32, F16, BF16, Q8_0, Q4_0 and Q4_1");
                return Err(announced(&self.path, name, problem));
            }
        };
        let bytes = encoded.map_err(|(index, value)| {
            let (path, tensor) = (self.path.clone(), name.into());
            Error::NonFinite { path, tensor, index, value }
        })?;
        self.bytes(name, &bytes)
    }

    /// Writes the next tensor from its bytes as they are in the file.
    ///
    /// # Errors
    /// [`Error::Announced`] when another one is next or the length differs, [`Error::Write`].
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let want = kind_and_bytes(&self.path, self.expect(name)?)?.1.get();
        if bytes.len() as u64 != want {
            return Err(announced(&self.path, name, format!("has {} bytes, but {want} were announced", bytes.len())));
        }
        let padding = vec![0; (bytes.len() as u64).next_multiple_of(self.alignment) as usize - bytes.len()];
        let written = self.writer.write_all(bytes).and_then(|()| self.writer.write_all(&padding));
        written.map_err(|source| Error::Write { path: self.path.clone(), action: "write", source })?;
        self.next += 1;
        Ok(())
    }

    /// Gives the writer back, to be flushed and synced by whoever made it.
    ///
    /// # Errors
    /// [`Error::Announced`] when a tensor is missing.
    pub fn finish(self) -> Result<W> {
        match self.specs.get(self.next) {
            None => Ok(self.writer),
            Some(spec) => Err(announced(&self.path, &spec.name, "was announced but not written".into())),
        }
    }

    fn expect(&self, name: &str) -> Result<&TensorSpec> {
        let problem = match self.specs.get(self.next) {
            Some(spec) if spec.name == name => return Ok(spec),
            Some(spec) => format!("`{}` is next", spec.name),
            None => "all tensors that were announced are written".into(),
        };
        Err(announced(&self.path, name, problem))
    }
}

fn announced(path: &Path, name: &str, problem: String) -> Error {
    Error::Announced { path: path.into(), name: name.into(), problem }
}

fn alignment(path: &Path, metadata: &[(&str, Value)]) -> Result<u64> {
    match metadata.iter().find(|(key, _)| *key == ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some((_, Value::U32(n))) if is_alignment((*n).into()) => Ok((*n).into()),
        Some((key, other)) => Err(announced(path, key, format!("{other} is no alignment, expected a u32 like 32"))),
    }
}

fn header(path: &Path, metadata: &[(&str, Value)], specs: &[TensorSpec], alignment: u64) -> Result<Vec<u8>> {
    let bounds = Bounds::new(path, 0);
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((specs.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    let mut seen = HashSet::new();
    for (key, value) in metadata {
        check_name(path, key, &mut seen)?;
        put_text(&mut out, key);
        put_value(&mut out, value);
    }
    let (mut seen, mut offset) = (HashSet::new(), Size::ZERO);
    for spec in specs {
        check_name(path, &spec.name, &mut seen)?;
        let (kind, bytes) = kind_and_bytes(path, spec)?;
        put_text(&mut out, &spec.name);
        out.extend((spec.shape.len() as u32).to_le_bytes());
        for &dim in spec.shape.iter().rev() {
            out.extend((dim as u64).to_le_bytes());
        }
        out.extend(kind.id.to_le_bytes());
        out.extend(offset.get().to_le_bytes());
        let next = offset.plus(bytes).and_then(|n| n.aligned(alignment));
        offset = bounds.fits("the size of all tensors", next)?;
    }
    out.resize((out.len() as u64).next_multiple_of(alignment) as usize, 0);
    Ok(out)
}

fn check_name<'a>(path: &Path, name: &'a str, seen: &mut HashSet<&'a str>) -> Result<()> {
    let problem = match name {
        "" => "has an empty name",
        _ if !seen.insert(name) => "is announced twice",
        _ => return Ok(()),
    };
    Err(announced(path, name, problem.into()))
}

/// The type that is written, and how many bytes.
fn kind_and_bytes(path: &Path, spec: &TensorSpec) -> Result<(&'static GgmlType, Size)> {
    let TensorSpec { name, storage, shape } = spec;
    let Some(kind) = GgmlType::of_storage(*storage) else {
        return Err(announced(path, name, format!("{storage} is no type of ggml")));
    };
    let row = match shape.last() {
        Some(&row) if shape.len() as u64 <= MOST_DIMS && !shape.contains(&0) => row as u64,
        _ => {
            return Err(announced(
                path,
                name,
                format!("has shape {shape:?}, expected 1 to {MOST_DIMS} dimensions, none 0"),
            ));
        }
    };
    if row % kind.block != 0 {
        let problem =
            format!("has rows of {row} elements, expected a multiple of {}, a block of {storage}", kind.block);
        return Err(announced(path, name, problem));
    }
    let elements = Size::product(shape.iter().map(|&d| d as u64));
    let bytes = elements.and_then(|n| Size::new(n.get() / kind.block).times(kind.bytes));
    Ok((kind, Bounds::new(path, 0).fits(format_args!("the size of tensor `{name}`"), bytes)?))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    out.extend(value.id().to_le_bytes());
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::Str(v) => put_text(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&v| u8::from(v))),
        Array::Str(v) => v.iter().for_each(|s| put_text(out, s)),
        Array::U64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
    }
}

/// The bytes of a tensor, or index and value of the first element that is not finite, given or as it would be read back.
type Encoded = std::result::Result<Vec<u8>, (usize, f32)>;

fn one_by_one<const N: usize>(values: &[f32], to: impl Fn(f32) -> [u8; N], from: impl Fn([u8; N]) -> f32) -> Encoded {
    let mut out = Vec::with_capacity(values.len() * N);
    for (i, &v) in values.iter().enumerate() {
        let bytes = to(v);
        finite(i, from(bytes))?;
        out.extend(bytes);
    }
    Ok(out)
}

fn in_blocks<const N: usize>(
    values: &[f32],
    quantize: fn(&[f32; block::LEN]) -> [u8; N],
    dequantize: fn(&[u8; N]) -> [f32; block::LEN],
) -> Encoded {
    let blocks = values.as_chunks().0;
    let mut out = Vec::with_capacity(blocks.len() * N);
    for (b, x) in blocks.iter().enumerate() {
        let bytes = quantize(x);
        // A NaN among the numbers does not show in the result, and an overflow does not show in the numbers.
        for (i, v) in x.iter().copied().chain(dequantize(&bytes)).enumerate() {
            finite(b * block::LEN + i % block::LEN, v)?;
        }
        out.extend(bytes);
    }
    Ok(out)
}

fn finite(index: usize, value: f32) -> std::result::Result<(), (usize, f32)> {
    if value.is_finite() { Ok(()) } else { Err((index, value)) }
}
