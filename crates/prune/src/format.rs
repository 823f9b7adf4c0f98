//! The plan as JSON: versioned, and validated like any other plan when it is read.
use crate::{Dims, Error, LayerPlan, Plan, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Version of the format. A change that an older program would misread raises it.
const VERSION: u32 = 1;

/// What is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    version: u32,
    teacher: Dims,
    hidden: Vec<usize>,
    layers: Vec<LayerPlan>,
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
    /// [`Error::PlanVersion`], else [`Error::Plan`] for text that is not JSON, unknown or missing fields, and lists that
    /// [`Plan::new`] refuses.
    pub fn from_json(text: &str) -> Result<Plan> {
        let json = |e: serde_json::Error| Error::Plan { what: e.to_string() };
        let Versioned { version } = serde_json::from_str(text).map_err(json)?;
        if version != VERSION {
            return Err(Error::PlanVersion { got: version, want: VERSION });
        }
        serde_json::from_str::<PlanFile>(text).map_err(json)?.try_into()
    }
}

impl TryFrom<PlanFile> for Plan {
    type Error = Error;

    fn try_from(file: PlanFile) -> Result<Plan> {
        if file.version != VERSION {
            return Err(Error::PlanVersion { got: file.version, want: VERSION });
        }
        Plan::new(file.teacher, file.hidden, file.layers)
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let (hidden, layers) = (self.hidden().to_vec(), self.layers().to_vec());
        PlanFile { version: VERSION, teacher: *self.teacher(), hidden, layers }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        PlanFile::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}
