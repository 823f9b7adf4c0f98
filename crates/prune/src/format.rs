//! The plan as JSON: versioned, and validated like any other plan when it is read.
//!
//! Version 2 adds layers that differ (`teacher.layers` is then a list of sizes) and combinations of heads and groups (`mixed_queries`,
//! `mixed_outputs`, `mixed_kv_groups` of a layer). Version 1 is read as it always was. A key of a layer that this program does not know is an axis that it does not
//! know (experts and their widths are to come): it is refused by name, because leaving it out would cut another model.
use crate::{Dims, Error, LayerPlan, Plan, Result, Sizes};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;
use std::collections::BTreeMap;

/// Version of the format that is written. A change that an older program would misread raises it.
const VERSION: u32 = 2;

/// What is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    version: u32,
    teacher: Teacher,
    hidden: Vec<usize>,
    layers: Vec<LayerFile>,
}

/// One shape for all layers where they are alike, as in version 1.
#[derive(Serialize)]
#[serde(untagged)]
enum Teacher {
    Uniform(Dims),
    Uneven(Sizes),
}

impl<'de> Deserialize<'de> for Teacher {
    /// By what `layers` is, so that a mistake is reported of the form that was meant.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let uneven = value.get("layers").is_some_and(Value::is_array);
        let teacher = if uneven {
            serde_json::from_value(value).map(Teacher::Uneven)
        } else {
            serde_json::from_value(value).map(Teacher::Uniform)
        };
        teacher.map_err(|e| D::Error::custom(format!("teacher: {e}")))
    }
}

/// A layer with whatever else is written about it.
#[derive(Serialize, Deserialize)]
struct LayerFile {
    #[serde(flatten)]
    plan: LayerPlan,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// Of any version: looked at first, so that a newer file is not called malformed.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Plan {
    /// The plan as JSON text.
    ///
    /// # Errors
    /// [`Error::Plan`], if the serialiser fails.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::Plan { what: e.to_string() })
    }

    /// A plan from JSON text.
    ///
    /// # Errors
    /// [`Error::PlanVersion`], [`Error::PlanAxis`], else [`Error::Plan`] for text that is not JSON, unknown or missing fields, and lists that
    /// [`Plan::new`] refuses.
    pub fn from_json(text: &str) -> Result<Plan> {
        let json = |e: serde_json::Error| Error::Plan { what: e.to_string() };
        let Versioned { version } = serde_json::from_str(text).map_err(json)?;
        check_version(version)?;
        serde_json::from_str::<PlanFile>(text).map_err(json)?.try_into()
    }
}

fn check_version(got: u32) -> Result<()> {
    if (1..=VERSION).contains(&got) { Ok(()) } else { Err(Error::PlanVersion { got, want: VERSION }) }
}

impl TryFrom<PlanFile> for Plan {
    type Error = Error;

    fn try_from(file: PlanFile) -> Result<Plan> {
        check_version(file.version)?;
        for layer in &file.layers {
            if let Some(axis) = layer.unknown.keys().next() {
                return Err(Error::PlanAxis { axis: axis.clone(), layer: layer.plan.layer });
            }
        }
        let sizes = match file.teacher {
            Teacher::Uniform(dims) => {
                dims.check()?; // before as many layers are made
                Sizes::from(dims)
            }
            Teacher::Uneven(sizes) => sizes,
        };
        let plan = Plan::new(sizes, file.hidden, file.layers.into_iter().map(|l| l.plan).collect())?;
        if file.version == 1 && plan.mixes() {
            return Err(Error::Plan {
                what: "combinations of heads in a plan of version 1, expected version 2".into(),
            });
        }
        Ok(plan)
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let teacher = match self.teacher().uniform() {
            Ok(dims) => Teacher::Uniform(dims),
            Err(_) => Teacher::Uneven(self.teacher().clone()),
        };
        let layer = |plan: &LayerPlan| LayerFile { plan: plan.clone(), unknown: BTreeMap::new() };
        let (hidden, layers) = (self.hidden().to_vec(), self.layers().iter().map(layer).collect());
        PlanFile { version: VERSION, teacher, hidden, layers }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        PlanFile::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}
