//! `--drop-by`: which layers go, by what the importance file says of the model without them.
use crate::{
    args_depth::DropRule,
    error::{Failure, Result},
    importance_file,
};
use paring_importance::{DepthRanking, ImportanceSet, NamedArray};
use paring_prune::Target;
use std::path::Path;

/// `target`, its number of layers turned into a list of layers to drop by `rule`. `file` holds what was measured, `set` what is known of it.
///
/// A target that keeps all of the `layers` layers stays as it is.
pub(crate) fn choose(
    rule: Option<DropRule>,
    target: Target,
    layers: usize,
    file: &Path,
    set: &ImportanceSet,
) -> Result<Target> {
    let Some(rule) = rule else { return Ok(target) };
    let Some(keep) = target.layers else {
        return Err(Failure::input("--drop-by says which layers go, but not how many; give --layers N too"));
    };
    // What is no number of layers to keep is refused where all such numbers are.
    if keep == 0 || layers <= keep {
        return Ok(target);
    }
    let values = set.block_influence();
    let mut arrays = importance_file::read(file)?.depth;
    arrays.push(NamedArray { name: "block_influence".into(), shape: vec![values.len()], values });
    let drop = DepthRanking::from(rule).choose(&arrays, layers - keep)?;
    Ok(Target { layers: None, drop_layers: Some(drop), ..target })
}
