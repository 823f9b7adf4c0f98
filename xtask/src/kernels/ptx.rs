//! What this task has to know of PTX text: which kernels a file has, their parameters, and its version. It is no parser of PTX; that is
//! `paring-ptx-sim`.

/// One kernel of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    /// Types and names, in order: `("u64", "gemm_param_0")`.
    pub params: Vec<(String, String)>,
    /// Threads a block, from `__launch_bounds__`; without it ptxas may take registers that a launch has not.
    pub max_threads: Option<u32>,
    /// Line numbers from `.entry` to the end of the body, from zero.
    pub lines: std::ops::Range<usize>,
}

/// The kernels of `text`, in order.
pub(super) fn entries(text: &str) -> Vec<Entry> {
    let lines: Vec<&str> = text.lines().collect();
    let starts: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains(".entry ")).collect();
    let mut entries = Vec::new();
    for (nth, &start) in starts.iter().enumerate() {
        let end = starts.get(nth + 1).copied().unwrap_or(lines.len());
        let body = &lines[start..end];
        let Some(rest) = lines[start].split(".entry ").nth(1) else { continue };
        let name = rest.split(|c: char| !is_name(c)).next().unwrap_or_default().to_owned();
        let head = body.iter().take_while(|l| !l.starts_with('{'));
        let (mut params, mut max_threads) = (Vec::new(), None);
        for line in head {
            params.extend(line.trim().strip_prefix(".param ").and_then(param));
            if let Some(numbers) = line.trim().strip_prefix(".maxntid ") {
                max_threads = numbers.split(',').map(|n| n.trim().parse::<u32>().ok()).product();
            }
        }
        let end = body.iter().position(|l| l.starts_with('}')).map_or(end, |n| start + n + 1);
        entries.push(Entry { name, params, max_threads, lines: start..end });
    }
    entries
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_$".contains(c)
}

/// `.u64 a_param_0,` or `.align 8 .b8 a_param_1[16]`, after `.param`.
fn param(line: &str) -> Option<(String, String)> {
    let words: Vec<&str> = line.trim_end_matches([',', ')']).split_whitespace().collect();
    let (name, types) = words.split_last()?;
    Some((types.last()?.trim_start_matches('.').to_owned(), (*name).to_owned()))
}

/// `text` with another `.version`.
pub(super) fn with_version(text: &str, version: &str) -> String {
    let lines = text.split_inclusive('\n');
    lines.map(|l| if l.starts_with(".version ") { format!(".version {version}\n") } else { l.to_owned() }).collect()
}

/// The version that `text` declares.
pub(super) fn version(text: &str) -> Option<&str> {
    text.lines().find_map(|l| l.strip_prefix(".version ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
//
.version 8.5
.target sm_80
.visible .entry add_f32(
	.param .u64 add_f32_param_0,
	.param .align 8 .b8 add_f32_param_1[16],
	.param .f32 add_f32_param_2
)
.maxntid 128, 2, 1
{
	ret;
}
	// .globl	none
.visible .entry none()
{
	ret;

}
";

    #[test]
    fn kernels_and_parameters_are_found() {
        let found = entries(TEXT);
        let names: Vec<_> = found.iter().map(|e| (e.name.as_str(), e.max_threads, e.lines.clone())).collect();
        assert_eq!(names, [("add_f32", Some(256), 3..12), ("none", None, 13..18)]);
        let params = [("u64", "add_f32_param_0"), ("b8", "add_f32_param_1[16]"), ("f32", "add_f32_param_2")];
        assert_eq!(found[0].params, params.map(|(t, n)| (t.to_owned(), n.to_owned())));
        assert_eq!(found[1].params, []);
    }

    #[test]
    fn the_version_is_the_only_thing_that_changes() {
        let older = with_version(TEXT, "7.4");
        assert_eq!((version(TEXT), version(&older)), (Some("8.5"), Some("7.4")));
        assert_eq!(older, TEXT.replace("8.5", "7.4"));
    }
}
