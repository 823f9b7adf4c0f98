//! Walking over tokens, and the declarations of variables and parameters.

use super::lexer::{Kind, Token};
use super::operands::{Names, immediate};
use super::{Param, ParamType, ParseError};
use crate::ir::Type;

/// Walks over tokens.
pub(crate) struct Cursor<'c, 'a> {
    pub(super) tokens: &'c [Token<'a>],
    pub(super) at: usize,
}

impl<'c, 'a> Cursor<'c, 'a> {
    pub(super) fn new(tokens: &'c [Token<'a>]) -> Self {
        Self { tokens, at: 0 }
    }

    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    pub(super) fn line(&self) -> u32 {
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

    pub(super) fn word(&mut self) -> Result<Token<'a>, ParseError> {
        let t = self.next()?;
        if t.kind == Kind::Word { Ok(t) } else { Err(ParseError::new(t.line, t.text, "expected a name")) }
    }

    pub(super) fn number(&mut self) -> Result<u64, ParseError> {
        let t = self.next()?;
        immediate(t.text)
            .filter(|_| t.text.starts_with(|c: char| c.is_ascii_digit()))
            .ok_or_else(|| ParseError::new(t.line, t.text, "expected a number"))
    }

    pub(super) fn skip_line(&mut self, line: u32) {
        while self.peek().is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    /// Skips to the end of a declaration: `;` or the brace that closes its body.
    pub(super) fn skip_declaration(&mut self) -> Result<(), ParseError> {
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
pub(super) struct Variable<'a> {
    pub(super) name: &'a str,
    pub(super) ty: Type,
    pub(super) array: bool,
    pub(super) size: Option<u64>,
    pub(super) align: u64,
}

/// Largest variable: a mistyped size must not overflow sums.
pub(super) const MAX_BYTES: u64 = 1 << 31;

/// `.shared .align 16 .b8 name[1024]` up to, not with, its `;`, `,` or `)`. Initialisers are refused.
pub(super) fn declaration<'a>(c: &mut Cursor<'_, 'a>) -> Result<Vec<Variable<'a>>, ParseError> {
    let mut ty = None;
    let mut align = None;
    let mut vector = 1;
    let mut pointer = false;
    let name = loop {
        let t = c.word()?;
        match t.text {
            // After `.ptr` it is the alignment of what the pointer points to.
            ".align" if pointer => _ = c.number()?,
            ".align" => align = Some(c.number()?),
            ".ptr" => pointer = true,
            ".v2" => vector = 2,
            ".v4" => vector = 4,
            ".shared" | ".param" | ".global" | ".const" | ".local" => {}
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

pub(super) fn params<'a>(c: &mut Cursor<'_, 'a>, names: &mut Names<'a>) -> Result<(Vec<Param>, usize), ParseError> {
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
