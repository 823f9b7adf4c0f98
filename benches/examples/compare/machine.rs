//! What the figures were measured on: date, commit, command, processor.
use std::{
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

/// A heading and two sentences, in Markdown.
pub(crate) fn describe() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (model, processors) = (processor(), std::thread::available_parallelism().map_or(0, usize::from));
    format!(
        "## {}, {model}, {processors} processors\n\nCommit {}; `cargo xtask bench {}`.",
        date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())),
        commit(),
        args.join(" ")
    )
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value =
        |key: &str| info.lines().find(|l| l.starts_with(key)).and_then(|l| l.split(": ").nth(1)).map(str::to_owned);
    let features = value("flags").or(value("Features")).unwrap_or_default();
    let known = ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "asimd", "bf16"];
    let has: Vec<&str> = known.into_iter().filter(|k| features.split(' ').any(|f| f == *k)).collect();
    format!("{} ({})", value("model name").unwrap_or_else(|| std::env::consts::ARCH.into()), has.join(" "))
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(files) if files.is_empty() => "",
        _ => ", and changes that are not committed",
    };
    git(&["rev-parse", "--short", "HEAD"]).map_or("unknown".into(), |hash| hash + changed)
}

/// `YYYY-MM-DD` in UTC (Hinnant's days-to-civil: years begin in March, so that the leap day is a year's last).
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + u64::from(month <= 2))
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let days = |d: u64| date(d * 86_400);
        assert_eq!(
            [days(0), days(59), days(11_016), days(20_516)],
            ["1970-01-01", "1970-03-01", "2000-02-29", "2026-03-04"]
        );
    }
}
