//! Machine code, as nvdisasm prints it: which instructions a kernel is made of, and which of them are in its hot loop.
use super::cfg::loops;
use std::collections::HashMap;

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Whether a predicate may switch it off.
    pub guarded: bool,
    /// With all modifiers: `LDG.E.128.CONSTANT`.
    pub opcode: String,
    /// The rest, as printed.
    pub operands: String,
}

/// The code of one kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Function {
    pub code: Vec<Instruction>,
    /// Index of the instruction after each label.
    pub labels: HashMap<String, usize>,
}

/// What a kernel is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mix {
    pub instructions: usize,
    /// Matrix products on tensor cores.
    pub hmma: usize,
    /// Loads and stores of local memory.
    pub local: usize,
    /// Atomic additions of floats, whose order no one knows.
    pub float_atomics: usize,
    /// Loads and stores of 16 bytes a thread in global memory, copies to shared memory among the loads.
    pub wide_loads: usize,
    pub wide_stores: usize,
    /// The most 16-byte loads and copies of one basic block that are under way before the first of them is waited for. Pipelines have
    /// several times as many, one for each stage.
    pub loads_in_flight: usize,
    /// The innermost loop with the most matrix products; all of the code where no loop has any.
    pub hot: Hot,
}

/// The hot loop.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hot {
    pub is_loop: bool,
    pub instructions: usize,
    pub hmma: usize,
    /// `ldmatrix` of four matrices; one of two counts half.
    pub ldsm_x4: f64,
    /// Clocks that shared memory is busy for what a warp does in one pass, at 128 bytes a clock.
    pub shared_clocks: f64,
    /// Clocks that tensor cores are busy for it, on an A100 with four of them at work.
    pub tensor_clocks: f64,
}

impl Hot {
    /// Matrix products for each `ldmatrix` of four matrices.
    pub(super) fn hmma_per_ldsm(&self) -> f64 {
        self.hmma as f64 / self.ldsm_x4
    }

    /// The part of the instructions that are matrix products.
    pub(super) fn hmma_share(&self) -> f64 {
        self.hmma as f64 / self.instructions.max(1) as f64
    }

    /// How busy shared memory is while tensor cores are; above 1 they wait for it.
    pub(super) fn shared_over_tensor(&self) -> f64 {
        self.shared_clocks / self.tensor_clocks
    }
}

/// The kernels in what `nvdisasm -c` printed.
pub(super) fn parse(text: &str) -> Vec<(String, Function)> {
    let mut functions: Vec<(String, Function)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix(".text.").and_then(|l| l.strip_suffix(':')) {
            functions.push((name.to_owned(), Function::default()));
            continue;
        }
        let Some((_, function)) = functions.last_mut() else { continue };
        if let Some(label) = line.strip_suffix(':') {
            function.labels.insert(label.to_owned(), function.code.len());
        } else if let Some(instruction) = instruction(line) {
            function.code.push(instruction);
        }
    }
    functions
}

/// `/*0710*/ @P4 BRA `(.L_x_0) ;`
fn instruction(line: &str) -> Option<Instruction> {
    let (_, code) = line.strip_prefix("/*")?.split_once("*/")?;
    // An address before it, and nothing but an instruction after it: not the words of its encoding.
    let code = code.trim().strip_suffix(';').or_else(|| code.split_once(';').map(|(c, _)| c))?.trim();
    let (guarded, code) = match code.strip_prefix('@') {
        Some(rest) => (true, rest.split_once(' ')?.1.trim()),
        None => (false, code),
    };
    let (opcode, operands) = code.split_once(' ').unwrap_or((code, ""));
    Some(Instruction { guarded, opcode: opcode.to_owned(), operands: operands.trim().to_owned() })
}

impl Instruction {
    /// The opcode without its modifiers.
    pub(super) fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    fn has(&self, modifier: &str) -> bool {
        self.opcode.split('.').skip(1).any(|m| m == modifier)
    }

    /// Bytes a thread that a load or store moves.
    fn width(&self) -> u32 {
        let is = |m: &str| self.has(m);
        match () {
            () if is("128") => 16,
            () if is("64") => 8,
            () if is("U8") || is("S8") => 1,
            () if is("U16") || is("S16") => 2,
            () => 4,
        }
    }

    fn is_wide_load(&self) -> bool {
        ["LDG", "LDGSTS"].contains(&self.base()) && self.width() == 16
    }

    fn is_float_atomic(&self) -> bool {
        // `RED.E.ADD.F32.FTZ.RN.STRONG.GPU`; the maximum of floats has one value in every order and is not made by any kernel here.
        ["RED", "ATOM", "ATOMG", "ATOMS", "REDG"].contains(&self.base())
            && ["F32", "F64", "F16", "F16x2", "BF16", "BF16_V2", "BF16x2"].iter().any(|t| self.has(t))
    }

    /// `ldmatrix`, in loads of four matrices.
    fn ldsm_x4(&self) -> f64 {
        match self.base() {
            "LDSM" if self.has("4") => 1.0,
            "LDSM" if self.has("2") => 0.5,
            "LDSM" => 0.25,
            _ => 0.0,
        }
    }

    /// Clocks of shared memory for one warp, without bank conflicts: 128 bytes each.
    fn shared_clocks(&self) -> f64 {
        match self.base() {
            "LDSM" => 4.0 * self.ldsm_x4(),
            // Narrow accesses take a clock too.
            "LDS" | "STS" | "LDGSTS" | "ATOMS" => f64::from(self.width().max(4)) / 4.0,
            _ => 0.0,
        }
    }

    /// Clocks of an A100's tensor cores: 256 products of bf16 a clock and core (128 of tf32), with four cores for four warps.
    fn tensor_clocks(&self) -> f64 {
        match self.base() {
            "HMMA" if self.has("16816") => 2.0,
            "HMMA" if self.has("1688") && self.has("TF32") => 2.0,
            "HMMA" => 1.0,
            _ => 0.0,
        }
    }
}

impl Function {
    /// The label that an instruction names: `` `(.L_x_0) ``.
    pub(super) fn target(&self, instruction: &Instruction) -> Option<usize> {
        let (_, rest) = instruction.operands.rsplit_once("`(")?;
        self.labels.get(rest.split(')').next()?).copied()
    }

    /// Counts.
    pub(super) fn mix(&self) -> Mix {
        let count = |is: &dyn Fn(&Instruction) -> bool| self.code.iter().filter(|i| is(i)).count();
        let hmma_in = |body: &[usize]| body.iter().filter(|i| self.code[**i].base() == "HMMA").count();
        let loops: Vec<_> = loops(self).into_iter().filter(|body| 0 < hmma_in(body)).collect();
        let contains = |a: &[usize], b: &[usize]| b.len() < a.len() && b.iter().all(|i| a.binary_search(i).is_ok());
        let innermost = loops.iter().filter(|a| !loops.iter().any(|b| contains(a, b)));
        let hot = match innermost.max_by_key(|body| hmma_in(body)) {
            Some(body) => self.hot(body, true),
            None => self.hot(&(0..self.code.len()).collect::<Vec<_>>(), false),
        };
        Mix {
            // What pads the end of a kernel is never run.
            instructions: count(&|i| i.base() != "NOP"),
            hmma: count(&|i| i.base() == "HMMA"),
            local: count(&|i| ["LDL", "STL"].contains(&i.base())),
            float_atomics: count(&Instruction::is_float_atomic),
            wide_loads: count(&Instruction::is_wide_load),
            wide_stores: count(&|i| i.base() == "STG" && i.width() == 16),
            loads_in_flight: self.loads_in_flight(),
            hot,
        }
    }

    fn hot(&self, body: &[usize], is_loop: bool) -> Hot {
        let code = || body.iter().map(|i| &self.code[*i]);
        Hot {
            is_loop,
            instructions: code().filter(|i| i.base() != "NOP").count(),
            hmma: code().filter(|i| i.base() == "HMMA").count(),
            ldsm_x4: code().map(Instruction::ldsm_x4).sum(),
            shared_clocks: code().map(Instruction::shared_clocks).sum(),
            tensor_clocks: code().map(Instruction::tensor_clocks).sum(),
        }
    }

    /// See [`Mix::loads_in_flight`].
    fn loads_in_flight(&self) -> usize {
        let starts: Vec<usize> = self.labels.values().copied().collect();
        // First registers of loads, and copies to shared memory since the last wait for those.
        let (mut most, mut in_flight, mut copies) = (0, Vec::new(), 0);
        for (i, instruction) in self.code.iter().enumerate() {
            if starts.contains(&i) {
                (in_flight, copies) = (Vec::new(), 0);
            }
            let named = registers(&instruction.operands);
            if instruction.base() == "LDG" && instruction.width() == 16 {
                // The first register named is where the data goes, the others are its address.
                let (to, from) = named.split_first().map_or((None, &[][..]), |(to, from)| (Some(*to), from));
                in_flight.retain(|first| !from.iter().any(|r| (*first..first + 4).contains(r)));
                in_flight.extend(to);
            } else {
                in_flight.retain(|first| !named.iter().any(|r| (*first..first + 4).contains(r)));
            }
            match instruction.base() {
                "LDGSTS" if instruction.width() == 16 => copies += 1,
                "DEPBAR" => copies = 0,
                "BRA" | "EXIT" | "RET" | "CALL" if !instruction.guarded => (in_flight, copies) = (Vec::new(), 0),
                _ => {}
            }
            most = most.max(in_flight.len() + copies);
        }
        most
    }
}

/// Numbers of the general registers in `operands`, in order; not of uniform ones (`UR4`).
fn registers(operands: &str) -> Vec<u32> {
    let words = operands.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(|w| w.strip_prefix('R'));
    words.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
#[path = "sass_tests.rs"]
mod tests; // small listings, and what must be read out of them
