//! `--hidden`, `--ffn`, ..., `--drop-layers`, `--params`: what is asked of the student.
use crate::{
    args::Target as Flags,
    error::{Failure, Result},
};
use paring_prune::{Dims, Mutable, ParamTarget, SearchOptions, Target, choose_shape};

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
    let Some(budget) = &flags.params else {
        return if given == Target::default() {
            let what = "what to cut? give --params (0.5 of the non-embedding parameters, or a number like 4.5B), or any of --hidden \
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
    let part = match param_target(budget)? {
        ParamTarget::Fraction(part) if fixed != *teacher => {
            // A part of the teacher's parameters, not of what the given axes leave.
            let of = |d: &Dims| paring_prune::count_params(d).non_embedding as f64;
            ParamTarget::Fraction(part * of(teacher) / of(&fixed))
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

/// `0.5`, or `4.5B`, `90M`, `120k`, `1234567`.
fn param_target(text: &str) -> Result<ParamTarget> {
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
    Ok(if unit == 1.0 && value <= 1.0 {
        ParamTarget::Fraction(value)
    } else {
        ParamTarget::Absolute((value * unit).round() as u64)
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
        assert_eq!(param_target("0.5").unwrap(), ParamTarget::Fraction(0.5));
        assert_eq!(param_target("4.5B").unwrap(), ParamTarget::Absolute(4_500_000_000));
        assert_eq!(param_target("90M").unwrap(), ParamTarget::Absolute(90_000_000));
        for bad in ["", "x", "-1", "0", "nan", "inf", "B", "1e300B"] {
            assert_eq!(param_target(bad).unwrap_err().code, 2, "{bad}");
        }
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
