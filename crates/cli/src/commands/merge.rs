//! `paring importance merge`: the files of several shards become the file of one run over all their windows.
use crate::{
    args_importance::Merge,
    error::{Failure, Result},
    importance_file::{self, Loaded},
    session::Session,
    workplace::{create_parent, refuse_existing},
};
use paring_checkpoint::shown_path;
use serde_json::json;

pub(crate) fn run(args: &Merge) -> Result<()> {
    let session = Session::new(&args.common)?;
    let Some(out) = &args.out else { return Err(Failure::input("where to? give --out FILE.safetensors")) };
    let [first, rest @ ..] = &args.files[..] else {
        return Err(Failure::input("nothing to merge; give FILE... that `paring importance --shard I/N` wrote"));
    };
    refuse_existing(out)?;
    let Loaded { mut set, mut origin, depth, written_by } = importance_file::read(first)?;
    let mut with_depth = if depth.is_empty() { vec![] } else { vec![shown_path(first)] };
    for path in rest {
        let next = importance_file::read(path)?;
        let together = |why: String| {
            let (a, b) = (shown_path(first), shown_path(path));
            Failure::input(format!("{a} and what was merged into it, and {b}: {}", paring_checkpoint::shown(&why)))
        };
        origin.add(&next.origin, args.several_texts).map_err(together)?;
        set.merge(&next.set).map_err(|e| together(e.to_string()))?;
        if next.written_by != written_by {
            let [a, b] = [&written_by, &next.written_by].map(|w| paring_checkpoint::shown(w));
            tell!("note: {} was written by {b}, {} by {a}", shown_path(path), shown_path(first));
        }
        if !next.depth.is_empty() {
            with_depth.push(shown_path(path));
        }
    }
    if !with_depth.is_empty() {
        let files = with_depth.join(", ");
        tell!(
            "note: the depth sweeps in {files} are left out: their losses are of one part of the windows and do not add up"
        );
    }
    let (seen, windows) = origin.windows();
    if seen < windows {
        tell!("note: {} of {windows} windows are still missing", windows - seen);
    }
    create_parent(out)?;
    importance_file::save(out, &set, &origin, &[])?;
    let json = json!({"tokens": set.tokens(), "windows": seen, "windows_missing": windows - seen, "out": out});
    session.print(&json, &format!("{} tokens in {seen} windows: {}\n", set.tokens(), out.display()))
}
