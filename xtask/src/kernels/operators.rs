//! Mutations of PTX: every way in which one instruction of a kernel is changed into another valid one, as a slip of the author's hand would.

/// One changed line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    /// Line of the file, from zero.
    pub line: usize,
    /// What was done.
    pub operator: &'static str,
    /// The new line.
    pub text: String,
}

/// Opcodes and what they are taken for.
const CONFUSED: [(&str, &str); 36] = [
    ("add.s32", "sub.s32"),
    ("sub.s32", "add.s32"),
    ("add.s64", "sub.s64"),
    ("add.f32", "sub.f32"),
    ("sub.f32", "add.f32"),
    ("add.rn.f32", "sub.rn.f32"),
    ("mul.f32", "add.f32"),
    ("div.rn.f32", "mul.rn.f32"),
    ("max.f32", "min.f32"),
    ("min.f32", "max.f32"),
    ("max.NaN.f32", "min.NaN.f32"),
    ("min.NaN.f32", "max.NaN.f32"),
    ("max.s32", "min.s32"),
    ("min.s32", "max.s32"),
    ("max.u32", "min.u32"),
    ("min.u32", "max.u32"),
    ("setp.lt", "setp.le"),
    ("setp.le", "setp.lt"),
    ("setp.ge", "setp.gt"),
    ("setp.gt", "setp.ge"),
    ("setp.eq", "setp.ne"),
    ("setp.ne", "setp.eq"),
    ("and.pred", "or.pred"),
    ("or.pred", "and.pred"),
    ("and.b32", "or.b32"),
    ("or.b32", "and.b32"),
    ("xor.b32", "or.b32"),
    ("xor.b32", "and.b32"),
    ("shl.b32", "shr.u32"),
    ("shr.u32", "shl.b32"),
    ("shr.s32", "shr.u32"),
    ("mul.lo.s32", "add.s32"),
    ("rem.u32", "div.u32"),
    ("div.u32", "rem.u32"),
    ("ex2.approx.ftz.f32", "lg2.approx.ftz.f32"),
    ("rsqrt.approx.f32", "sqrt.approx.f32"),
];

/// Instructions without a result, which can be forgotten.
const FORGOTTEN: [&str; 5] = ["bar.sync", "cp.async.wait", "cp.async.commit", "st.global", "st.shared"];

/// All mutants of the lines `range` of a file.
pub(super) fn mutants(lines: &[&str], range: std::ops::Range<usize>) -> Vec<Mutant> {
    let mut found = Vec::new();
    for line in range {
        let Some(text) = lines.get(line) else { break };
        let mut add = |operator, text: Option<String>| found.extend(text.map(|text| Mutant { line, operator, text }));
        // `@%p1 bra` or `@!%p1 bra`.
        let (guard, code) = match text.trim().strip_prefix('@') {
            Some(guarded) => guarded.split_once(' ').map_or((None, guarded), |(g, c)| (Some(g), c.trim())),
            None => (None, text.trim()),
        };
        if !code.starts_with(|c: char| c.is_ascii_lowercase()) || !code.ends_with(';') {
            continue;
        }
        if let Some(guard) = guard {
            let other = guard.strip_prefix('!').map_or_else(|| format!("!{guard}"), str::to_owned);
            add("other predicate", Some(text.replacen(guard, &other, 1)));
            add("predicate forgotten", Some(text.replacen(&format!("@{guard}"), "", 1)));
            add("never", Some(String::new()));
        }
        if FORGOTTEN.iter().any(|f| code.starts_with(f)) {
            add("forgotten", Some(String::new()));
        }
        for (from, to) in CONFUSED {
            if code.strip_prefix(from).is_some_and(|rest| rest.starts_with([' ', '\t', '.'])) {
                add("other operation", Some(text.replacen(from, to, 1)));
            }
        }
        for step in [1, -1] {
            add("constant off by one", constant(text, code, step));
        }
        add("address off by one", address(text, code));
        add("operands exchanged", exchanged(text, code));
        add(
            "not transposed",
            code.starts_with("ldmatrix").then(|| text.replacen(".trans", "", 1)).filter(|t| t != text),
        );
    }
    found
}

/// The last operand, where it is a constant. Memory instructions have sizes there and not values, shuffles masks.
fn constant(text: &str, code: &str, step: i64) -> Option<String> {
    if let Some(rest) = code.strip_prefix("cp.async.wait_group") {
        let n: i64 = rest.trim().trim_end_matches(';').trim().parse().ok()?;
        let to = n.checked_add(step).filter(|n| 0 <= *n)?;
        return Some(text.replacen(rest, &format!(" {to};"), 1));
    }
    if ["cp.async", "bar", "ld", "st", "shfl", "red", "atom", "membar", "vote"].iter().any(|s| code.starts_with(s)) {
        return None;
    }
    let (head, last) = text.trim_end().trim_end_matches(';').rsplit_once(", ")?;
    // Whether there is an address: none is 1 or -1, so nothing could notice.
    if last == "0" && ["setp.eq.s64", "setp.ne.s64"].iter().any(|s| code.starts_with(s)) {
        return None;
    }
    let value = last.parse::<i64>().ok()?.checked_add(step)?;
    Some(format!("{head}, {value};"))
}

/// `[%rd1+16]` becomes `[%rd1+20]`, `[%rd1]` becomes `[%rd1+4]`; with 16-byte accesses by 16.
fn address(text: &str, code: &str) -> Option<String> {
    if !["ld.global", "st.global", "ld.shared", "st.shared", "ldmatrix"].iter().any(|s| code.starts_with(s)) {
        return None;
    }
    let step = match code {
        c if c.starts_with("ldmatrix") || c.contains(".v4.") => 16,
        c if c.contains(".v2.") || c.contains("64 ") => 8,
        c if c.contains("16 ") || c.contains("16\t") => 2,
        c if c.contains("8 ") || c.contains("8\t") => 1,
        _ => 4,
    };
    let (head, rest) = text.split_once('[')?;
    let (inner, tail) = rest.split_once(']')?;
    let moved = match inner.split_once('+') {
        Some((base, offset)) => format!("{base}+{}", offset.parse::<i64>().ok()? + step),
        None => format!("{inner}+{step}"),
    };
    Some(format!("{head}[{moved}]{tail}"))
}

/// Two operands whose order means something: of a selection, a subtraction, a pair, or the halves of a matrix fragment.
fn exchanged(text: &str, code: &str) -> Option<String> {
    let indent = &text[..text.len() - text.trim_start().len()];
    if code.starts_with("mma.sync") {
        // `{d}, {a}, {b0, b1}, {c}`: the halves of b.
        let b = code.split('{').nth(3)?.split('}').next()?;
        let (b0, b1) = b.split_once(',')?;
        return Some(text.replacen(&format!("{{{b}}}"), &format!("{{{}, {}}}", b1.trim(), b0.trim()), 1));
    }
    let places: [usize; 2] = match code {
        c if c.starts_with("selp.") || c.starts_with("sub.") || c.starts_with("cvt.rn.bf16x2.f32") => [1, 2],
        c if c.starts_with("div.") || c.starts_with("rem.") || c.starts_with("setp.l") || c.starts_with("setp.g") => {
            [1, 2]
        }
        c if c.starts_with("fma.rn.f32") => [2, 3],
        c if c.starts_with("mov.b32") && c.contains('{') => return swap_pair(text),
        _ => return None,
    };
    let (opcode, operands) = code.trim_end_matches(';').split_once([' ', '\t'])?;
    let mut operands: Vec<&str> = operands.trim().split(", ").collect();
    if operands.len() <= places[1] || operands[places[0]] == operands[places[1]] {
        return None;
    }
    operands.swap(places[0], places[1]);
    text.contains(code)
        .then(|| format!("{indent}{opcode} {};", operands.join(", ")))
        .filter(|_| !text.trim().starts_with('@'))
}

/// `mov.b32 %r1, {%rs1, %rs2};`, in either direction.
fn swap_pair(text: &str) -> Option<String> {
    let (head, rest) = text.split_once('{')?;
    let (pair, tail) = rest.split_once('}')?;
    let (a, b) = pair.split_once(',')?;
    (a.trim() != b.trim()).then(|| format!("{head}{{{}, {}}}{tail}", b.trim(), a.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Vec<(&'static str, String)> {
        mutants(&[line], 0..1).into_iter().map(|m| (m.operator, m.text.trim().to_owned())).collect()
    }

    fn has(line: &str, operator: &str, text: &str) {
        assert!(of(line).iter().any(|(o, t)| *o == operator && t == text), "{line}: {:?}", of(line));
    }

    #[test]
    fn every_operator_has_its_slip() {
        has("\t@%p1 bra \t$L__BB0_2;", "other predicate", "@!%p1 bra \t$L__BB0_2;");
        has("\t@!%p1 bra \t$L__BB0_2;", "other predicate", "@%p1 bra \t$L__BB0_2;");
        has("\t@%p1 bra \t$L__BB0_2;", "predicate forgotten", "bra \t$L__BB0_2;");
        has("\t@%p1 bra \t$L__BB0_2;", "never", "");
        has("\tbar.sync \t0;", "forgotten", "");
        has("\tst.global.f32 \t[%rd1], %f1;", "forgotten", "");
        has("\tsetp.lt.s32 \t%p1, %r1, %r2;", "other operation", "setp.le.s32 \t%p1, %r1, %r2;");
        has("\tadd.s32 \t%r1, %r2, 16;", "constant off by one", "add.s32 \t%r1, %r2, 17;");
        has("\tadd.s32 \t%r1, %r2, 16;", "constant off by one", "add.s32 \t%r1, %r2, 15;");
        assert!(of("\tsetp.eq.s64 \t%p1, %rd1, 0;").iter().all(|(operator, _)| *operator != "constant off by one"));
        has("\tcp.async.wait_group 2;", "constant off by one", "cp.async.wait_group 3;");
        has("\tld.global.f32 \t%f1, [%rd1];", "address off by one", "ld.global.f32 \t%f1, [%rd1+4];");
        has(
            "\tld.global.v4.f32 \t{%f1, %f2, %f3, %f4}, [%rd1+16];",
            "address off by one",
            "ld.global.v4.f32 \t{%f1, %f2, %f3, %f4}, [%rd1+32];",
        );
        has("\tst.shared.u16 \t[%r1+2], %rs1;", "address off by one", "st.shared.u16 \t[%r1+4], %rs1;");
        has("\tselp.f32 \t%f1, %f2, %f3, %p1;", "operands exchanged", "selp.f32 %f1, %f3, %f2, %p1;");
        has(
            "\tmma.sync.x {%f1,%f2},{%r1,%r2},{%r3,%r4},{%f1,%f2};",
            "operands exchanged",
            "mma.sync.x {%f1,%f2},{%r1,%r2},{%r4, %r3},{%f1,%f2};",
        );
        has("\tmov.b32 \t%r1, {%rs1, %rs2};", "operands exchanged", "mov.b32 \t%r1, {%rs2, %rs1};");
        has(
            "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r1}, [%r2];",
            "not transposed",
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1}, [%r2];",
        );
    }

    #[test]
    fn what_is_no_instruction_is_left_alone() {
        for line in
            ["\t.reg .b32 \t%r<9>;", "$L__BB0_2:", "\t// add.s32", "{", "\tret;", "\tmov.b32 \t%r1, {%rs1, %rs1};"]
        {
            assert_eq!(of(line), []);
        }
    }

    #[test]
    fn only_the_given_lines_are_changed() {
        let lines = ["\tbar.sync \t0;", "\tbar.sync \t0;"];
        let found: Vec<_> = mutants(&lines, 1..9).into_iter().map(|m| m.line).collect();
        assert_eq!(found, [1]);
    }
}
