//! Kernels: directives, then two passes over the body, the first for labels and shared variables.

use super::cursor::{Cursor, MAX_BYTES, Variable, declaration, params};
use super::lexer::Kind;
use super::operands::Names;
use super::{Kernel, ParseError, decode};
use crate::ir::{Instruction, Operand, Type};

/// A kernel, from its name on.
pub(super) fn entry<'a>(
    source: &str,
    c: &mut Cursor<'_, 'a>,
    module_shared: &[Variable<'a>],
) -> Result<Kernel, ParseError> {
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
