//! `--hidden`, `--ffn`, ..., `--drop-layers`, `--params`: what is asked of the student.
use crate::{
    args::{Basis, Target as Flags},
    args_search::ParamsKind,
    commands::search::{Choice, VERSION},
    error::{Failure, Result},
};
use paring_gpu_model::{PRESETS, Preset};
use paring_prune::{Dims, Mutable, ParamTarget, SearchOptions, Target, choose_shape, round_widths};
use std::path::Path;

/// Widths are rounded to multiples of this: full tiles on GPUs.
const DIVISOR: usize = 128;

/// The target that the flags describe. With `--params`, axes that are given stay as given and the others are chosen.
pub(crate) fn target(flags: &Flags, teacher: &Dims) -> Result<Target> {
    let drop_layers = flags
        .drop_layers
        .as_deref()
        .map(|list| number_list("--drop-layers", "layer", "12..=17,20", list))
        .transpose()?;
    let given = Target {
        hidden: flags.hidden,
        ffn: flags.ffn,
        heads: flags.heads,
        kv_groups: flags.kv_groups,
        layers: flags.layers,
        drop_layers,
    };
    let given = if flags.round_widths { round_widths(teacher, &given, DIVISOR)? } else { given };
    if let Some(file) = &flags.search {
        return searched(file, &given, teacher);
    }
    if let Some(name) = &flags.preset {
        return published(name, &given, teacher);
    }
    let Some(budget) = &flags.params else {
        return if given == Target::default() {
            let what = "what to cut? give --params (0.5 of the non-embedding parameters, or a number like 4.5B), --preset, --search, or any of --hidden \
                        --ffn --heads --kv-groups --layers --drop-layers";
            Err(Failure::input(what))
        } else {
            Ok(given)
        };
    };
    // What is given is cut first; the search sees a teacher of those sizes.
    let fixed = given.student(teacher)?;
    let mutable = Mutable {
        layers: given.layers.is_none() && given.drop_layers.is_none(),
        hidden: given.hidden.is_none(),
        ffn: given.ffn.is_none(),
        ..Mutable::default()
    };
    let part = match param_target(budget, flags.params_kind)? {
        ParamTarget::Fraction(part) if fixed != *teacher => {
            // A part of the teacher's parameters, not of what the given axes leave.
            let of = |d: &Dims| paring_prune::count_params(d).non_embedding as f64;
            ParamTarget::Fraction(part * of(teacher) / of(&fixed))
        }
        ParamTarget::FractionOfTotal(part) if fixed != *teacher => {
            let of = |d: &Dims| paring_prune::count_params(d).total as f64;
            ParamTarget::FractionOfTotal(part * of(teacher) / of(&fixed))
        }
        other => other,
    };
    let chosen = choose_shape(&fixed, part, &SearchOptions { mutable, ..SearchOptions::default() })
        .map_err(|e| Failure::from(e).at(format!("--params {budget}")))?;
    Ok(Target {
        hidden: given.hidden.or(chosen.hidden),
        ffn: given.ffn.or(chosen.ffn),
        layers: given.layers.or(chosen.layers),
        ..given
    })
}

/// Whether the residual stream is cut in a rotated basis: as `--basis` says, or else as the search that is named chose.
pub(crate) fn rotated(flags: &Flags) -> Result<bool> {
    let basis = match (flags.basis, &flags.search) {
        (None, Some(file)) => choice(file)?.basis,
        (given, _) => given.unwrap_or_default(),
    };
    Ok(basis == Basis::Rotated)
}

/// What `paring search` chose. Flags that say more are refused: the choice is one of whole shapes.
fn searched(file: &Path, given: &Target, teacher: &Dims) -> Result<Target> {
    let shown = paring_checkpoint::shown_path(file);
    if *given != Target::default() {
        return Err(Failure::input(format!(
            "--search {shown} says all sizes; expected none of --hidden, --ffn, ... beside it"
        )));
    }
    let choice = choice(file)?;
    // A rotated basis unties the head, which is no other teacher.
    if choice.teacher != (Dims { tied: choice.teacher.tied, ..*teacher }) {
        return Err(Failure::input(format!(
            "{shown}: is of a teacher of other sizes ({:?}, this one has {teacher:?}); search again with this model",
            choice.teacher
        )));
    }
    choice.target.student(teacher).map_err(|e| Failure::from(e).at(&shown))?;
    Ok(choice.target)
}

/// Refuses a search of another model than the one with this hash; says nothing when no search is named.
pub(crate) fn check_search(flags: &Flags, hash: &str) -> Result<()> {
    let Some(file) = &flags.search else { return Ok(()) };
    let found = choice(file)?.teacher_hash;
    if found == hash {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{}: is of another model (hash {}, this one has {hash}); search again with this model",
        paring_checkpoint::shown_path(file),
        paring_checkpoint::shown(&found)
    )))
}

fn choice(file: &Path) -> Result<Choice> {
    let shown = paring_checkpoint::shown_path(file);
    let wrong = |e: &dyn std::fmt::Display| Failure::input(format!("{shown}: is no result of `paring search`: {e}"));
    let mut json = paring_checkpoint::read_json(file, &paring_checkpoint::Limits::default())?;
    let chosen = json.get_mut("chosen").map(serde_json::Value::take).ok_or_else(|| wrong(&"it has no `chosen`"))?;
    let choice: Choice = serde_json::from_value(chosen).map_err(|e| wrong(&e))?;
    if choice.version != VERSION {
        return Err(wrong(&format!("version {}, expected {VERSION}", choice.version)));
    }
    Ok(choice)
}

/// The published model of a name: `paring-gpu-model` has the one table of them.
pub(crate) fn preset(name: &str) -> Result<Preset> {
    Preset::named(name).ok_or_else(|| {
        let known = PRESETS.map(|p| p.name).join(", ");
        Failure::input(format!("--preset {}: expected one of {known}", paring_checkpoint::shown(name)))
    })
}

/// Sizes of a published student, where they differ from the teacher's; axes that are given stay as given.
fn published(name: &str, given: &Target, teacher: &Dims) -> Result<Target> {
    let shape = preset(name)?.shape();
    let Some(layer) = shape.layers.first() else {
        return Err(Failure::input(format!("--preset {name}: has no layers")));
    };
    if shape.head_dim as usize != teacher.head_dim {
        return Err(Failure::input(format!(
            "--preset {name}: has heads of {} channels and the model of {}; no cut makes one of the other",
            shape.head_dim, teacher.head_dim
        )));
    }
    let changed = |to: u32, from: usize| (to as usize != from).then_some(to as usize);
    let layers = if given.drop_layers.is_some() { None } else { changed(shape.layers.len() as u32, teacher.layers) };
    let target = Target {
        hidden: given.hidden.or(changed(shape.hidden, teacher.hidden)),
        ffn: given.ffn.or(changed(layer.ffn, teacher.ffn)),
        heads: given.heads.or(changed(layer.heads, teacher.heads)),
        kv_groups: given.kv_groups.or(changed(layer.kv_heads, teacher.kv_groups)),
        layers: given.layers.or(layers),
        drop_layers: given.drop_layers.clone(),
    };
    target.student(teacher).map_err(|e| Failure::from(e).at(format!("--preset {name}")))?;
    Ok(target)
}

/// `0.5`, or `4.5B`, `90M`, `120k`, `1234567`; a part is of the non-embedding parameters and a number counts all, unless `kind` says other.
pub(crate) fn param_target(text: &str, kind: Option<ParamsKind>) -> Result<ParamTarget> {
    let wrong = || {
        let text = paring_checkpoint::shown(text);
        Failure::input(format!(
            "--params {text}: expected a part like 0.5, or a number of parameters like 4.5B, 90M or 1200000"
        ))
    };
    let (number, unit) = match text.char_indices().next_back() {
        Some((i, 'B' | 'b')) => (&text[..i], 1e9),
        Some((i, 'M' | 'm')) => (&text[..i], 1e6),
        Some((i, 'K' | 'k')) => (&text[..i], 1e3),
        _ => (text, 1.0),
    };
    let value: f64 = number.trim().parse().map_err(|_| wrong())?;
    if !value.is_finite() || value <= 0.0 || 1e15 < value * unit {
        return Err(wrong());
    }
    let (part, number) = (value, (value * unit).round() as u64);
    Ok(match (unit == 1.0 && value <= 1.0, kind) {
        (true, Some(ParamsKind::Total)) => ParamTarget::FractionOfTotal(part),
        (true, _) => ParamTarget::Fraction(part),
        (false, Some(ParamsKind::NonEmbedding)) => ParamTarget::AbsoluteNonEmbedding(number),
        (false, _) => ParamTarget::Absolute(number),
    })
}

/// `12..=17,20`: numbers and inclusive ranges, as they stand in the list of `flag`; `what` says what each of them is.
pub(crate) fn number_list(flag: &str, what: &str, example: &str, text: &str) -> Result<Vec<usize>> {
    let wrong = |part: &str| {
        let part = paring_checkpoint::shown(part);
        Failure::input(format!("{flag}: `{part}` is no {what}; expected numbers and ranges, like {example}"))
    };
    let number =
        |s: &str, part: &str| s.trim().parse::<usize>().ok().filter(|&n| n < 1 << 16).ok_or_else(|| wrong(part));
    let mut layers = Vec::new();
    for part in text.split(',') {
        match part.split_once("..=") {
            Some((first, last)) => {
                let (first, last) = (number(first, part)?, number(last, part)?);
                if last < first {
                    return Err(wrong(part));
                }
                layers.extend(first..=last);
            }
            None => layers.push(number(part, part)?),
        }
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_budgets_are_read_as_written() {
        let layer_list = |text| number_list("--drop-layers", "layer", "12..=17,20", text);
        assert_eq!(layer_list("12..=14, 20").unwrap(), [12, 13, 14, 20]);
        for bad in ["", "a", "3..=1", "1..3", "99999999", "1,,2", "-1"] {
            assert_eq!(layer_list(bad).unwrap_err().code, 2, "{bad}");
        }
        let read = |text, kind| param_target(text, kind).unwrap();
        assert_eq!(read("0.5", None), ParamTarget::Fraction(0.5));
        assert_eq!(read("4.5B", None), ParamTarget::Absolute(4_500_000_000));
        assert_eq!(read("90M", None), ParamTarget::Absolute(90_000_000));
        assert_eq!(read("0.5", Some(ParamsKind::Total)), ParamTarget::FractionOfTotal(0.5));
        assert_eq!(read("0.5", Some(ParamsKind::NonEmbedding)), ParamTarget::Fraction(0.5));
        assert_eq!(read("90M", Some(ParamsKind::NonEmbedding)), ParamTarget::AbsoluteNonEmbedding(90_000_000));
        for bad in ["", "x", "-1", "0", "nan", "inf", "B", "1e300B"] {
            assert_eq!(param_target(bad, None).unwrap_err().code, 2, "{bad}");
        }
    }

    #[test]
    fn published_students_are_cut_from_their_teachers_and_from_no_other() {
        let sizes = |layers, hidden, ffn| Dims {
            layers,
            hidden,
            ffn,
            heads: 32,
            kv_groups: 8,
            head_dim: 128,
            vocab: 128_256,
            tied: false,
        };
        let llama = sizes(32, 4096, 14_336);
        let ask = |name: &str| Flags { preset: Some(name.into()), ..Flags::default() };
        let student = |name: &str| target(&ask(name), &llama).and_then(|t| Ok(t.student(&llama)?));
        assert_eq!(student("llama-3.1-minitron-4b-width").unwrap(), sizes(32, 3072, 9216));
        assert_eq!(student("Llama-3.1-Minitron-4B-Depth").unwrap(), sizes(16, 4096, 14_336));
        for bad in ["mistral-nemo-12b", "nemotron-4-15b", "no-such-model"] {
            assert_eq!(student(bad).unwrap_err().code, 2, "{bad}");
        }
        let other = Dims { head_dim: 64, ..llama };
        let error = target(&ask("minitron-4b"), &other).unwrap_err();
        assert!(error.code == 2 && error.message.contains("heads of 128 channels"), "{error}");
    }

    #[test]
    fn a_search_is_taken_by_its_own_teacher_and_alone() {
        let teacher =
            Dims { layers: 8, hidden: 192, ffn: 576, heads: 6, kv_groups: 2, head_dim: 32, vocab: 4096, tied: true };
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("search.json");
        let chosen = Target { ffn: Some(256), drop_layers: Some(vec![3]), ..Target::default() };
        let write = |version: u32| {
            let json = serde_json::json!({"chosen": {"version": version, "teacher_hash": "abc", "teacher": teacher, "target": chosen}});
            std::fs::write(&file, json.to_string()).unwrap();
        };
        write(VERSION);
        let flags = Flags { search: Some(file.clone()), ..Flags::default() };
        assert_eq!(target(&flags, &teacher).unwrap(), chosen);
        assert!(check_search(&flags, "abc").is_ok() && check_search(&Flags::default(), "other").is_ok());
        assert!(check_search(&flags, "other").is_err_and(|e| e.code == 2 && e.message.contains("another model")));
        let more = Flags { hidden: Some(96), ..flags.clone() };
        assert!(target(&more, &teacher).is_err_and(|e| e.code == 2 && e.message.contains("says all sizes")));
        let larger = Dims { layers: 9, ..teacher };
        assert!(target(&flags, &larger).is_err_and(|e| e.code == 2 && e.message.contains("other sizes")));
        write(VERSION + 1);
        assert!(target(&flags, &teacher).is_err_and(|e| e.code == 2 && e.message.contains("version")));
        std::fs::write(&file, "{}").unwrap();
        assert!(target(&flags, &teacher).is_err_and(|e| e.code == 2 && e.message.contains("no result")));
    }

    #[test]
    fn widths_are_rounded_on_request() {
        let teacher =
            Dims { layers: 8, hidden: 576, ffn: 1536, heads: 9, kv_groups: 3, head_dim: 64, vocab: 4096, tied: true };
        let flags = Flags { hidden: Some(500), ffn: Some(1000), heads: Some(5), ..Flags::default() };
        let rounded = target(&Flags { round_widths: true, ..flags.clone() }, &teacher).unwrap();
        assert_eq!((rounded.hidden, rounded.ffn, rounded.heads), (Some(480), Some(1024), Some(6)));
        let as_given = target(&flags, &teacher).unwrap();
        assert_eq!((as_given.hidden, as_given.ffn, as_given.heads), (Some(500), Some(1000), Some(5)));
    }

    #[test]
    fn a_part_counts_the_whole_teacher_even_when_an_axis_is_given() {
        let teacher =
            Dims { layers: 8, hidden: 192, ffn: 576, heads: 6, kv_groups: 2, head_dim: 32, vocab: 4096, tied: true };
        let flags = Flags { params: Some("0.5".into()), layers: Some(6), ..Flags::default() };
        let student = target(&flags, &teacher).unwrap().student(&teacher).unwrap();
        let part = |d: &Dims| paring_prune::count_params(d).non_embedding as f64;
        assert_eq!(student.layers, 6);
        assert!((part(&student) / part(&teacher) - 0.5).abs() < 0.08, "{student:?}");
        assert_eq!(target(&Flags::default(), &teacher).unwrap_err().code, 2);
    }
}
