//! How much of what the machine can do a case reaches: its operations over the ceiling of its type, or its bytes over the memory's, whichever
//! takes longer (Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009). Bytes are those that no implementation can do without:
//! operands and results of a product once, a model's weights once for each step that depends on the one before.
use crate::{Result, side::Side};
use serde_json::{Value, json};

/// Sizes of a model, as numbers of values; `bytes` as stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    /// Matrices of all layers.
    pub(crate) matrices: f64,
    /// The head.
    pub(crate) head: f64,
    /// Columns of queries of all layers.
    pub(crate) queries: f64,
    pub(crate) bytes: f64,
}

impl Sizes {
    /// From what our side says of a model.
    pub(crate) fn of(answer: &Value) -> Sizes {
        let number = |key: &str| answer[key].as_f64().unwrap_or(0.0);
        let (matrices, head) = (number("matrices"), number("head"));
        Sizes { matrices, head, queries: number("queries"), bytes: number("bytes") }
    }

    /// Multiplications and additions of a forward over `windows` of `context` tokens, with logits of so many rows.
    fn forward(&self, windows: f64, context: f64, logits: f64) -> f64 {
        // Scores and values: two products for every pair of a query and a key that is not behind it.
        let pairs = windows * context * (context + 1.0) / 2.0;
        2.0 * windows * context * self.matrices + 2.0 * logits * self.head + 4.0 * pairs * self.queries
    }
}

/// What a case costs at least.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cost {
    /// Multiplications and additions.
    ops: f64,
    bytes: f64,
    /// The type that is multiplied.
    dtype: String,
}

impl Cost {
    /// Of a case by the line that describes it, and its model.
    pub(crate) fn of(line: &Value, model: &Sizes) -> Cost {
        let number = |key: &str| line[key].as_f64().unwrap_or(0.0);
        let dtype = line["dtype"].as_str().unwrap_or_default();
        let size = if dtype == "f32" { 4.0 } else { 2.0 };
        let weights = match dtype {
            "f32" | "bf16" => size * (model.matrices + model.head),
            _ => model.bytes,
        };
        let (ops, bytes) = match line["kind"].as_str().unwrap_or_default() {
            "gemm" => {
                let [m, n, k] = ["m", "n", "k"].map(number);
                let weight = if line["form"] == "dw" { 4.0 } else { size };
                (2.0 * m * n * k, 4.0 * (m * k + m * n) + weight * n * k)
            }
            "prefill" => {
                let tokens = number("tokens");
                (model.forward(1.0, tokens, if line["logits"] == "all" { tokens } else { 1.0 }), weights)
            }
            "decode" => {
                let (first, tokens) = (number("prompt"), number("tokens"));
                let context = first + tokens / 2.0;
                (tokens * (2.0 * (model.matrices + model.head) + 4.0 * context * model.queries), tokens * weights)
            }
            kind => {
                let [windows, context] = ["windows", "context"].map(number);
                let forward = model.forward(windows, context, windows * context);
                // A backward is two forwards; a teacher is one more.
                let forwards = if kind == "distil" { 4.0 } else { 3.0 };
                // AdamW reads four f32 for each value and writes three.
                (forwards * forward, forwards * weights + 28.0 * (model.matrices + model.head))
            }
        };
        Cost { ops, bytes, dtype: dtype.into() }
    }
}

/// The machine's limits, as our side measures them.
pub(crate) struct Ceilings {
    f32_ops: f64,
    bf16_ops: f64,
    int8_ops: f64,
    bytes: f64,
}

impl Ceilings {
    pub(crate) fn measured(ours: &mut Side) -> Result<Ceilings> {
        let answer = ours.ask(&json!({"do": "ceilings"}))?;
        let number = |key: &str| answer[key].as_f64().ok_or_else(|| format!("no ceiling `{key}`"));
        Ok(Ceilings {
            f32_ops: number("f32")?,
            bf16_ops: number("bf16")?,
            int8_ops: number("int8")?,
            bytes: number("read")?,
        })
    }

    /// Seconds that a case takes at least, and what limits it.
    fn least(&self, cost: &Cost) -> (f64, &'static str) {
        let (ops, name) = match cost.dtype.as_str() {
            "f32" => (self.f32_ops, "f32"),
            "bf16" => (self.bf16_ops, "bf16"),
            _ => (self.int8_ops, "int8"),
        };
        let (compute, memory) = (cost.ops / ops, cost.bytes / self.bytes);
        if compute < memory { (memory, "memory") } else { (compute, name) }
    }

    /// The table of our side's times.
    pub(crate) fn table<'a>(&self, rows: impl Iterator<Item = (&'a str, &'a Cost, f64)>) -> String {
        let mut text = format!(
            "\nRoofline of our side. Ceilings, measured in the same process: {:.0} (f32), {:.0} (bf16), {:.0} (int8) GFLOP/s in registers, \
             {:.1} GB/s from memory.\n\n\
             | case | GFLOP | MB | limit, ms | limited by | ours, ms | share of the limit |\n|---|---|---|---|---|---|---|\n",
            self.f32_ops / 1e9,
            self.bf16_ops / 1e9,
            self.int8_ops / 1e9,
            self.bytes / 1e9
        );
        for (name, cost, seconds) in rows {
            let (least, by) = self.least(cost);
            text += &format!(
                "| {name} | {:.2} | {:.1} | {:.2} | {by} | {:.2} | {:.0} % |\n",
                cost.ops / 1e9,
                cost.bytes / 1e6,
                least * 1e3,
                seconds * 1e3,
                100.0 * least / seconds
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Sizes = Sizes { matrices: 100.0, head: 50.0, queries: 8.0, bytes: 80.0 };

    #[test]
    fn costs_are_those_of_the_shapes() {
        let gemm = json!({"kind": "gemm", "form": "forward", "dtype": "bf16", "m": 2, "n": 3, "k": 5});
        let want = Cost { ops: 60.0, bytes: 4.0 * (10.0 + 6.0) + 2.0 * 15.0, dtype: "bf16".into() };
        assert_eq!(Cost::of(&gemm, &Sizes::default()), want);
        // Three tokens see 1 + 2 + 3 keys.
        let prefill = json!({"kind": "prefill", "dtype": "f32", "tokens": 3, "logits": "last"});
        let want = Cost { ops: 600.0 + 100.0 + 4.0 * 6.0 * 8.0, bytes: 600.0, dtype: "f32".into() };
        assert_eq!(Cost::of(&prefill, &MODEL), want);
        let decode = json!({"kind": "decode", "dtype": "q8_0", "prompt": 1, "tokens": 2});
        assert_eq!(Cost::of(&decode, &MODEL).bytes, 160.0);
    }

    #[test]
    fn the_slower_of_two_limits_counts() {
        let machine = Ceilings { f32_ops: 10.0, bf16_ops: 20.0, int8_ops: 40.0, bytes: 5.0 };
        let cost = |ops, bytes, dtype: &str| Cost { ops, bytes, dtype: dtype.into() };
        assert_eq!(machine.least(&cost(20.0, 5.0, "f32")), (2.0, "f32"));
        assert_eq!(machine.least(&cost(20.0, 15.0, "bf16")), (3.0, "memory"));
        assert!(
            machine.table([("x", &cost(20.0, 5.0, "f32"), 4.0)].into_iter()).ends_with("| f32 | 4000.00 | 50 % |\n")
        );
    }
}
