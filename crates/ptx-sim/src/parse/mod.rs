//! PTX text to decoded kernels. What the interpreter does not know is an error with its line, never a guess.

mod decode;
mod lexer;
mod operands;

use std::fmt;

use self::lexer::{Kind, Token};
use self::operands::{Names, immediate};
use crate::ir::{Instruction, Operand, Type};

/// Where and why a text could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// The piece of text that is not understood.
    pub text: String,
    /// Why.
    pub reason: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, text: &str, reason: &str) -> Self {
        Self { line, text: text.to_owned(), reason: reason.to_owned() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: `{}`: {}", self.line, self.text, self.reason)
    }
}

impl std::error::Error for ParseError {}

/// The type of a kernel parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are PTX's own")]
pub enum ParamType {
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F32,
    F64,
    /// A structure passed by value, as an array of bytes.
    B8Array,
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name in the PTX.
    pub name: String,
    /// Its type.
    pub ty: ParamType,
    /// Offset in the parameter buffer, in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
}

/// A decoded kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    name: String,
    params: Vec<Param>,
    param_bytes: usize,
    static_shared: usize,
    max_threads: Option<u32>,
    pub(crate) required_threads: bool,
    pub(crate) instructions: Vec<Instruction>,
    pub(crate) predicates: usize,
    pub(crate) r: usize,
    pub(crate) d: usize,
    /// Where dynamic shared memory starts.
    pub(crate) dynamic_base: usize,
}

impl Kernel {
    /// The name in the PTX (mangled unless declared `extern "C"`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parameters in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Size of the parameter buffer in bytes.
    pub fn param_bytes(&self) -> usize {
        self.param_bytes
    }

    /// Bytes of shared memory that the kernel declares itself.
    pub fn static_shared(&self) -> usize {
        self.static_shared
    }

    /// The most threads a block may have, from `__launch_bounds__` (`.maxntid` or `.reqntid`).
    pub fn max_threads(&self) -> Option<u32> {
        self.max_threads
    }

    /// Number of instructions in the text.
    pub fn instruction_count(&self) -> usize {
        self.instructions.len()
    }

    /// PTX line and text of each instruction, in order.
    pub fn instructions(&self) -> impl Iterator<Item = (u32, &str)> {
        self.instructions.iter().map(|i| (i.line, &*i.text))
    }
}

/// A PTX module.
#[derive(Clone, Debug)]
pub struct Module {
    version: String,
    target: String,
    kernels: Vec<Kernel>,
}

impl Module {
    /// Reads the text of a PTX file.
    ///
    /// # Errors
    /// With line and text at the first thing that is malformed or that the interpreter does not know.
    pub fn parse(source: &str) -> Result<Self, ParseError> {
        let tokens = lexer::tokens(source)?;
        let mut c = Cursor { tokens: &tokens, at: 0 };
        let mut module = Module { version: String::new(), target: String::new(), kernels: Vec::new() };
        let mut shared = Vec::new();
        while let Some(t) = c.peek() {
            c.at += 1;
            match t.text {
                ".version" => module.version = c.next()?.text.to_owned(),
                ".target" => {
                    module.target = c.next()?.text.to_owned();
                    while c.eat(b',') {
                        c.next()?;
                    }
                }
                ".address_size" => {
                    let bits = c.next()?;
                    if bits.text != "64" {
                        return Err(ParseError::new(bits.line, bits.text, "only 64-bit addresses are supported"));
                    }
                }
                ".visible" | ".extern" | ".weak" => {}
                ".file" | ".loc" => c.skip_line(t.line),
                ".shared" => {
                    c.at -= 1;
                    shared.extend(declaration(&mut c)?);
                }
                ".entry" => {
                    let kernel = entry(source, &mut c, &shared)?;
                    if module.kernel(&kernel.name).is_some() {
                        return Err(ParseError::new(t.line, &kernel.name, "a second kernel of this name"));
                    }
                    module.kernels.push(kernel);
                }
                // Device functions, module variables and debug sections: names in them are unknown to the kernels.
                ".func" | ".global" | ".const" | ".section" | ".alias" | ".pragma" => c.skip_declaration()?,
                _ if t.is(b';') => {}
                _ => return Err(ParseError::new(t.line, t.text, "not a PTX directive that is supported")),
            }
        }
        Ok(module)
    }

    /// The kernels in the order of the text.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// The kernel of a name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }

    /// The `.version` of the text.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The `.target` of the text.
    pub fn target(&self) -> &str {
        &self.target
    }
}

/// Walks over tokens.
pub(crate) struct Cursor<'c, 'a> {
    tokens: &'c [Token<'a>],
    at: usize,
}

impl<'a> Cursor<'_, 'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn line(&self) -> u32 {
        self.tokens.last().map_or(1, |t| t.line)
    }

    pub(crate) fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let t = self.peek().ok_or_else(|| ParseError::new(self.line(), "", "the text ends too early"))?;
        self.at += 1;
        Ok(t)
    }

    pub(crate) fn eat(&mut self, punct: u8) -> bool {
        let found = self.peek().is_some_and(|t| t.is(punct));
        self.at += usize::from(found);
        found
    }

    pub(crate) fn expect(&mut self, punct: u8) -> Result<Token<'a>, ParseError> {
        let t = self.next()?;
        if t.is(punct) {
            Ok(t)
        } else {
            Err(ParseError::new(t.line, t.text, &format!("expected `{}`", char::from(punct))))
        }
    }

    fn word(&mut self) -> Result<Token<'a>, ParseError> {
        let t = self.next()?;
        if t.kind == Kind::Word { Ok(t) } else { Err(ParseError::new(t.line, t.text, "expected a name")) }
    }

    fn number(&mut self) -> Result<u64, ParseError> {
        let t = self.next()?;
        immediate(t.text)
            .filter(|_| t.text.starts_with(|c: char| c.is_ascii_digit()))
            .ok_or_else(|| ParseError::new(t.line, t.text, "expected a number"))
    }

    fn skip_line(&mut self, line: u32) {
        while self.peek().is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    /// Skips to the end of a declaration: `;` or the brace that closes its body.
    fn skip_declaration(&mut self) -> Result<(), ParseError> {
        let mut depth = 0u32;
        loop {
            let t = self.next()?;
            if t.is(b'{') {
                depth += 1;
            } else if t.is(b'}') {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Ok(());
                }
            } else if t.is(b';') && depth == 0 {
                return Ok(());
            }
        }
    }
}

/// A declared variable: its name, type, size and alignment; no size for `name[]`.
struct Variable<'a> {
    name: &'a str,
    ty: Type,
    array: bool,
    size: Option<u64>,
    align: u64,
}

/// Largest variable: a mistyped size must not overflow sums.
const MAX_BYTES: u64 = 1 << 31;

/// `.shared .align 16 .b8 name[1024]` up to, not with, its `;`, `,` or `)`. Initialisers are refused.
fn declaration<'a>(c: &mut Cursor<'_, 'a>) -> Result<Vec<Variable<'a>>, ParseError> {
    let mut ty = None;
    let mut align = None;
    let mut vector = 1;
    let name = loop {
        let t = c.word()?;
        match t.text {
            ".align" => align = Some(c.number()?),
            ".v2" => vector = 2,
            ".v4" => vector = 4,
            ".shared" | ".param" | ".ptr" | ".global" | ".const" | ".local" => {}
            s => match s.strip_prefix('.') {
                Some(s) => {
                    ty = Some(Type::parse(s).ok_or_else(|| ParseError::new(t.line, t.text, "unknown type"))?);
                }
                None => break t,
            },
        }
    };
    let ty = ty.ok_or_else(|| ParseError::new(name.line, name.text, "the declaration has no type"))?;
    let element = ty.bytes() as u64 * vector;
    let align = align.unwrap_or(element);
    if !align.is_power_of_two() || align > 1 << 16 {
        return Err(ParseError::new(name.line, name.text, "the alignment is not a power of two"));
    }
    let mut names = vec![name];
    let mut size = Some(element);
    let mut array = false;
    while c.eat(b'[') {
        array = true;
        if c.eat(b']') {
            size = None;
            continue;
        }
        let n = c.number()?;
        size = match size {
            Some(s) => Some(
                s.checked_mul(n)
                    .filter(|&b| b <= MAX_BYTES)
                    .ok_or_else(|| ParseError::new(name.line, name.text, "the array is too large"))?,
            ),
            None => None,
        };
        c.expect(b']')?;
    }
    // `.shared .b32 a, b;`: parameters are separated by commas too, but start with a directive.
    while c.peek().is_some_and(|t| t.is(b',')) && c.tokens.get(c.at + 1).is_some_and(|t| !t.text.starts_with('.')) {
        c.at += 1;
        names.push(c.word()?);
    }
    if c.peek().is_some_and(|t| t.is(b'=')) {
        return Err(ParseError::new(name.line, name.text, "initialisers are not supported"));
    }
    Ok(names.into_iter().map(|n| Variable { name: n.text, ty, array, size, align }).collect())
}

fn param_type(ty: Type, array: bool) -> Option<ParamType> {
    Some(match ty {
        Type::B8 if array => ParamType::B8Array,
        _ if array => return None,
        Type::B8 => ParamType::B8,
        Type::B16 => ParamType::B16,
        Type::B32 => ParamType::B32,
        Type::B64 => ParamType::B64,
        Type::U8 => ParamType::U8,
        Type::U16 => ParamType::U16,
        Type::U32 => ParamType::U32,
        Type::U64 => ParamType::U64,
        Type::S8 => ParamType::S8,
        Type::S16 => ParamType::S16,
        Type::S32 => ParamType::S32,
        Type::S64 => ParamType::S64,
        Type::F16 => ParamType::F16,
        Type::F32 => ParamType::F32,
        Type::F64 => ParamType::F64,
        _ => return None,
    })
}

fn params<'a>(c: &mut Cursor<'_, 'a>, names: &mut Names<'a>) -> Result<(Vec<Param>, usize), ParseError> {
    let mut out = Vec::new();
    let mut end = 0usize;
    if !c.eat(b'(') || c.eat(b')') {
        return Ok((out, 0));
    }
    loop {
        let line = c.peek().map_or(0, |t| t.line);
        for v in declaration(c)? {
            let ty = param_type(v.ty, v.array)
                .ok_or_else(|| ParseError::new(line, v.name, "a parameter type that is not supported"))?;
            let size = v.size.ok_or_else(|| ParseError::new(line, v.name, "a parameter without a size"))? as usize;
            let align = v.align as usize;
            let offset = end.next_multiple_of(align);
            end = offset + size;
            if end > 1 << 16 {
                return Err(ParseError::new(line, v.name, "more than 64 KiB of parameters"));
            }
            names.params.insert(v.name, offset as u32);
            out.push(Param { name: v.name.to_owned(), ty, offset, size, align });
        }
        if c.eat(b')') {
            return Ok((out, end));
        }
        c.expect(b',')?;
    }
}

/// A kernel, from its name on.
fn entry<'a>(source: &str, c: &mut Cursor<'_, 'a>, module_shared: &[Variable<'a>]) -> Result<Kernel, ParseError> {
    let name = c.word()?;
    let mut names = Names::default();
    let (params, param_bytes) = params(c, &mut names)?;
    let mut max_threads = None;
    let mut required_threads = false;
    loop {
        let t = c.next()?;
        match t.text {
            "{" => break,
            ".maxntid" | ".reqntid" => {
                let mut n = c.number()?;
                while c.eat(b',') {
                    n = n.saturating_mul(c.number()?);
                }
                required_threads = t.text == ".reqntid";
                max_threads = Some(u32::try_from(n).unwrap_or(u32::MAX));
            }
            ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => {
                c.number()?;
            }
            ".noreturn" => {}
            ".pragma" => {
                c.next()?;
                c.eat(b';');
            }
            _ => return Err(ParseError::new(t.line, t.text, "not a kernel directive that is supported")),
        }
    }
    let body = c.at;
    let (end, statics, dynamic_base) = survey(c, &mut names, module_shared)?;
    c.at = body;
    let instructions = statements(source, c, &mut names, end)?;
    c.at = end + 1;
    Ok(Kernel {
        name: name.text.to_owned(),
        params,
        param_bytes,
        static_shared: statics,
        max_threads,
        required_threads,
        instructions,
        predicates: names.predicates as usize,
        r: names.r as usize,
        d: names.d as usize,
        dynamic_base,
    })
}

/// First pass over a body: labels, shared variables and the token of the closing brace.
fn survey<'a>(
    c: &mut Cursor<'_, 'a>,
    names: &mut Names<'a>,
    module_shared: &[Variable<'a>],
) -> Result<(usize, usize, usize), ParseError> {
    let mut depth = 1u32;
    let mut index = 0u32;
    let mut top = 0u64;
    let place = |names: &mut Names<'a>, top: &mut u64, v: &Variable<'a>, size: u64| {
        *top = top.next_multiple_of(v.align);
        names.shared.insert(v.name, *top);
        *top += size;
    };
    let mut dynamic: Vec<&Variable<'a>> = Vec::new();
    let mut start = true;
    let end = loop {
        let at = c.at;
        let t = c.next()?;
        if t.kind == Kind::Word
            && let Some(v) = module_shared.iter().find(|v| v.name == t.text)
            && !names.shared.contains_key(v.name)
        {
            match v.size {
                Some(s) => place(names, &mut top, v, s),
                None if !dynamic.iter().any(|d| d.name == v.name) => dynamic.push(v),
                None => {}
            }
        }
        match t.text {
            "{" if start => depth += 1,
            "}" if start => {
                depth -= 1;
                if depth == 0 {
                    break at;
                }
            }
            ";" => start = true,
            ".loc" if start => c.skip_line(t.line),
            ".shared" if start => {
                c.at = at;
                for v in declaration(c)? {
                    let size = v.size.ok_or_else(|| ParseError::new(t.line, v.name, "an array without a size"))?;
                    place(names, &mut top, &v, size);
                    if top > MAX_BYTES {
                        return Err(ParseError::new(t.line, v.name, "too much shared memory"));
                    }
                }
            }
            _ if start && t.kind == Kind::Word && c.peek().is_some_and(|n| n.is(b':')) => {
                c.at += 1;
                if names.labels.insert(t.text, index).is_some() {
                    return Err(ParseError::new(t.line, t.text, "a second label of this name"));
                }
            }
            _ if start => {
                index += u32::from(!t.text.starts_with('.'));
                start = false;
            }
            _ => {}
        }
    };
    if top > MAX_BYTES {
        return Err(ParseError::new(c.line(), "", "too much shared memory"));
    }
    let align = dynamic.iter().map(|v| v.align).max().unwrap_or(16).max(16);
    let base = top.next_multiple_of(align);
    for v in dynamic {
        names.shared.insert(v.name, base);
    }
    Ok((end, top as usize, base as usize))
}

/// Second pass over a body: declarations of registers and the instructions.
fn statements<'a>(
    source: &str,
    c: &mut Cursor<'_, 'a>,
    names: &mut Names<'a>,
    end: usize,
) -> Result<Vec<Instruction>, ParseError> {
    let mut out = Vec::new();
    names.open();
    while c.at < end {
        let t = c.next()?;
        match t.text {
            "{" => names.open(),
            "}" => names.close(),
            ";" => {}
            ".loc" => c.skip_line(t.line),
            ".reg" => registers(c, names)?,
            ".shared" | ".pragma" => while !c.next()?.is(b';') {},
            ".local" => {
                return Err(ParseError::new(
                    t.line,
                    ".local",
                    "unsupported: local memory (spills or arrays with dynamic indices)",
                ));
            }
            _ if t.kind == Kind::Word && c.eat(b':') => {}
            _ => {
                c.at -= 1;
                out.push(instruction(source, c, names)?);
            }
        }
    }
    Ok(out)
}

/// `.reg .b32 %r<9>, a, b;`
fn registers<'a>(c: &mut Cursor<'_, 'a>, names: &mut Names<'a>) -> Result<(), ParseError> {
    let t = c.word()?;
    let ty = t.text.strip_prefix('.').and_then(Type::parse);
    let ty = ty.ok_or_else(|| ParseError::new(t.line, t.text, "unknown register type"))?;
    loop {
        let name = c.word()?;
        if c.eat(b'<') {
            let n = c.number()?;
            c.expect(b'>')?;
            names.declare(ty, &name, true, u32::try_from(n).unwrap_or(u32::MAX))?;
        } else {
            names.declare(ty, &name, false, 1)?;
        }
        if c.eat(b';') {
            return Ok(());
        }
        c.expect(b',')?;
    }
}

fn instruction<'a>(source: &str, c: &mut Cursor<'_, 'a>, names: &Names<'a>) -> Result<Instruction, ParseError> {
    let first = c.peek().map_or(0, |t| t.start);
    let mut guard = None;
    if c.eat(b'@') {
        let negated = c.eat(b'!');
        let t = c.word()?;
        c.at -= 1;
        match names.operand(c)? {
            Operand::P(i, false) => guard = Some((i, negated)),
            _ => return Err(ParseError::new(t.line, t.text, "a guard must be a predicate register")),
        }
    }
    let op = c.word()?;
    let mut args = Vec::new();
    let end = if c.peek().is_some_and(|t| t.is(b';')) {
        c.next()?
    } else {
        loop {
            args.push(names.operand(c)?);
            let t = c.next()?;
            if t.is(b';') {
                break t;
            }
            if !t.is(b',') {
                return Err(ParseError::new(t.line, t.text, "expected `,` or `;`"));
            }
        }
    };
    let text = source.get(first..end.start).unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ");
    let line = op.line;
    let (op, class) = decode::decode(op.text, &args).map_err(|reason| ParseError::new(line, &text, &reason))?;
    Ok(Instruction { op, class, guard, args: args.into(), line, text: text.into() })
}
