//! What launches did, as text: the shared library writes it, the test's side of the crate reads it. Text, because the two are separate
//! copies of this crate that agree on nothing else.
use std::{collections::BTreeMap, fmt::Write};

/// A launch, after it has run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Static and dynamic bytes of shared memory of a block.
    pub shared: [usize; 2],
    /// The simulator's counters, by name.
    pub counters: BTreeMap<String, u64>,
}

/// What happened on a device since the last report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Launches that have run.
    pub launches: u64,
    /// The launches themselves, where [`crate::Config::record`] asks for them, in the order in which they ran.
    pub records: Vec<Record>,
    /// What the checkers found, and what the driver refused: sentences.
    pub findings: Vec<String>,
    /// Bytes that are allocated now.
    pub live_bytes: u64,
    /// The most that were allocated at any time of the device's life.
    pub peak_bytes: u64,
}

/// `name=value` pairs of a line.
pub(crate) fn words(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split_whitespace().map(|word| word.split_once('=').unwrap_or((word, "")))
}

fn triple(n: [u32; 3]) -> String {
    format!("{},{},{}", n[0], n[1], n[2])
}

fn numbers<T: Copy + Default + std::str::FromStr, const N: usize>(text: &str) -> Option<[T; N]> {
    let mut out = [T::default(); N];
    let mut parts = text.split(',');
    for slot in &mut out {
        *slot = parts.next()?.parse().ok()?;
    }
    Some(out)
}

impl Report {
    pub(crate) fn to_text(&self) -> String {
        let mut out = format!("totals launches={} live={} peak={}\n", self.launches, self.live_bytes, self.peak_bytes);
        for Record { kernel, grid, block, shared, counters } in &self.records {
            let (grid, block, [fixed, dynamic]) = (triple(*grid), triple(*block), shared);
            // Writing to a string cannot fail.
            let _ = write!(out, "launch kernel={kernel} grid={grid} block={block} shared={fixed},{dynamic}");
            for (name, value) in counters {
                let _ = write!(out, " {name}={value}");
            }
            out.push('\n');
        }
        for finding in &self.findings {
            let _ = writeln!(out, "finding {}", finding.replace('\n', "; "));
        }
        out
    }

    /// Reads [`Report::to_text`]; `None` if it is not that.
    pub(crate) fn from_text(text: &str) -> Option<Report> {
        let mut report = Report::default();
        for line in text.lines() {
            let (what, rest) = line.split_once(' ')?;
            match what {
                "totals" => {
                    for (name, value) in words(rest) {
                        let value = value.parse().ok()?;
                        match name {
                            "launches" => report.launches = value,
                            "live" => report.live_bytes = value,
                            _ => report.peak_bytes = value,
                        }
                    }
                }
                "launch" => {
                    let mut record = Record::default();
                    for (name, value) in words(rest) {
                        match name {
                            "kernel" => record.kernel = value.to_owned(),
                            "grid" => record.grid = numbers(value)?,
                            "block" => record.block = numbers(value)?,
                            "shared" => record.shared = numbers(value)?,
                            _ => drop(record.counters.insert(name.to_owned(), value.parse().ok()?)),
                        }
                    }
                    report.records.push(record);
                }
                _ => report.findings.push(rest.to_owned()),
            }
        }
        Some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_interface() {
        let record = Record {
            kernel: "scale_f32".into(),
            grid: [3, 2, 1],
            block: [256, 1, 1],
            shared: [16, 1024],
            counters: BTreeMap::from([("instructions".into(), 99), ("mma".into(), 0)]),
        };
        let report = Report {
            launches: 7,
            records: vec![record.clone(), record],
            findings: vec!["scale_f32: line 12: out of bounds".into()],
            live_bytes: 4,
            peak_bytes: 5,
        };
        assert_eq!(Report::from_text(&report.to_text()), Some(report));
        assert_eq!(Report::from_text("launch grid=1"), None);
    }
}
