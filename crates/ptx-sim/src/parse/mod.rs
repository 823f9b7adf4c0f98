//! PTX text to decoded kernels. What the interpreter does not know is an error with its line, never a guess.

mod body;
mod cursor;
mod decode;
mod lexer;
mod operands;

use std::fmt;

use self::body::entry;
use self::cursor::{Cursor, declaration};
use crate::ir::Instruction;

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
        let mut c = Cursor::new(&tokens);
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

    /// Puts a kernel in the place of the one with its name; false where there is none.
    pub fn replace(&mut self, kernel: &Kernel) -> bool {
        let place = self.kernels.iter_mut().find(|k| k.name == kernel.name);
        place.map(|place| kernel.clone_into(place)).is_some()
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
