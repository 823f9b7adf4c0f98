//! Flags of whoever ranks by an importance file: which of the definitions in it.
use crate::error::{Failure, Result};
use clap::{Args, ValueEnum};
use paring_importance::{Agg, Aggregation, Distance, FfnBy, HeadsBy, HiddenBy, ScoreOptions};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "lower")]
pub(crate) enum HiddenScore {
    /// Outputs of the norms, summed over all norms
    ModelOpt,
    /// First-order change of the loss; needs `importance --taylor`
    Taylor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FfnScore {
    /// Input of down_proj
    #[value(name = "modelopt")]
    ModelOpt,
    /// Output of gate_proj, before the activation
    Paper,
    /// Input of down_proj times the norm of its column
    WeightAware,
    /// First-order change of the loss; needs `importance --taylor`
    Taylor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HeadScore {
    /// Channels of the head, L2 over their scores
    #[value(name = "modelopt")]
    ModelOpt,
    /// Norm of the head's output, token by token
    Paper,
    /// Norm of what the head adds to the residual stream, token by token; needs `importance --contribution`
    Contribution,
    /// First-order change of the loss; needs `importance --taylor`
    Taylor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InfluenceScore {
    /// 1 - cosine of a block's input and output
    Cosine,
    /// Their angle
    Angular,
}

/// Which scores to rank by.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Scores")]
pub(crate) struct ScoreFlags {
    /// How activations become scores: over tokens, then over sequences; each mean, l2 or var [default: mean:l2]
    #[arg(long, value_name = "SEQ:BATCH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aggregate: Option<String>,
    /// How channels of the residual stream are ranked [default: modelopt]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hidden_by: Option<HiddenScore>,
    /// How neurons are ranked [default: modelopt]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ffn_by: Option<FfnScore>,
    /// How query heads and key/value groups are ranked [default: modelopt]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) heads_by: Option<HeadScore>,
    /// How block influence is measured [default: cosine]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) influence: Option<InfluenceScore>,
}

impl ScoreFlags {
    /// The options that they stand for.
    pub(crate) fn options(&self) -> Result<ScoreOptions> {
        Ok(ScoreOptions {
            aggregation: self.aggregate.as_deref().map_or(Ok(Aggregation::default()), aggregation)?,
            hidden: match self.hidden_by {
                None | Some(HiddenScore::ModelOpt) => HiddenBy::Norms,
                Some(HiddenScore::Taylor) => HiddenBy::Taylor,
            },
            ffn: match self.ffn_by {
                None | Some(FfnScore::ModelOpt) => FfnBy::ModelOpt,
                Some(FfnScore::Paper) => FfnBy::Paper,
                Some(FfnScore::WeightAware) => FfnBy::WeightAware,
                Some(FfnScore::Taylor) => FfnBy::Taylor,
            },
            heads: match self.heads_by {
                None | Some(HeadScore::ModelOpt) => HeadsBy::ModelOpt,
                Some(HeadScore::Paper) => HeadsBy::Paper,
                Some(HeadScore::Contribution) => HeadsBy::Contribution,
                Some(HeadScore::Taylor) => HeadsBy::Taylor,
            },
            depth: match self.influence {
                None | Some(InfluenceScore::Cosine) => Distance::Cosine,
                Some(InfluenceScore::Angular) => Distance::Angular,
            },
        })
    }
}

/// `SEQ:BATCH`, each the name of an aggregation.
fn aggregation(text: &str) -> Result<Aggregation> {
    let find = |name: &str| Agg::ALL.into_iter().find(|a| a.name() == name);
    match text.split_once(':').map(|(seq, batch)| (find(seq), find(batch))) {
        Some((Some(seq), Some(batch))) => Ok(Aggregation { seq, batch }),
        _ => Err(Failure::input(format!(
            "--aggregate {}: expected SEQ:BATCH, each mean, l2 or var: mean:l2",
            paring_checkpoint::shown(text)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_for_is_modelopt() {
        assert_eq!(ScoreFlags::default().options().unwrap(), ScoreOptions::default());
    }

    #[test]
    fn aggregations_are_read_tokens_first() {
        let read = |text: &str| aggregation(text).map(|a| (a.seq, a.batch));
        assert_eq!(read("var:mean").unwrap(), (Agg::Var, Agg::Mean));
        assert_eq!(read("mean:l2").unwrap(), (Agg::Mean, Agg::L2));
        for wrong in ["", "mean", "mean:", "l2:L2", "mean:l2:var", "mean l2"] {
            let error = read(wrong).unwrap_err();
            assert!(error.code == 2 && error.message.contains("expected SEQ:BATCH"), "{wrong}: {error}");
        }
    }
}
