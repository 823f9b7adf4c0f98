//! A plan's slices: the student's parameters cut from the teacher's, tensor by tensor; heads that the plan combines are combined first.
use crate::{Error, Result, Weights, heads::merge, student_arch, weights::fits};
use paring_model::{Arch, Axis, ParamSpec, params};
use paring_prune::Plan;
use std::collections::HashMap;

/// The two crates name axes on their own: neither depends on the other.
pub(crate) fn axis(a: Axis) -> paring_prune::Axis {
    match a {
        Axis::Vocab => paring_prune::Axis::Vocab,
        Axis::Hidden => paring_prune::Axis::Hidden,
        Axis::Ffn => paring_prune::Axis::Ffn,
        Axis::QHeads => paring_prune::Axis::QHeads,
        Axis::KvHeads => paring_prune::Axis::KvHeads,
    }
}

/// The student's weights: slices of the teacher's, except for those that were replaced ([`Cut::set`]).
#[derive(Debug)]
pub struct Cut<'a, W> {
    teacher: W,
    plan: &'a Plan,
    arch: Arch,
    /// The teacher's parameters by name.
    of: HashMap<String, ParamSpec>,
    /// The student's parameters that are not slices, by name.
    replaced: HashMap<String, Vec<f32>>,
}

impl<'a, W: Weights> Cut<'a, W> {
    /// Slices and nothing else.
    pub fn new(teacher: W, plan: &'a Plan) -> Self {
        let arch = student_arch(teacher.arch(), plan);
        let of = params(teacher.arch()).into_iter().map(|p| (p.name.clone(), p)).collect();
        Cut { teacher, plan, arch, of, replaced: HashMap::new() }
    }

    /// What is cut.
    pub fn teacher(&self) -> &W {
        &self.teacher
    }

    /// How it is cut.
    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// From now on the student's parameter `spec` has these values.
    ///
    /// # Errors
    /// [`Error::Values`].
    pub fn set(&mut self, spec: &ParamSpec, values: Vec<f32>) -> Result<()> {
        fits(spec, &values)?;
        self.replaced.insert(spec.name.clone(), values);
        Ok(())
    }

    /// The teacher's parameter that the student's `spec` is cut from.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn teacher_spec(&self, spec: &ParamSpec) -> Result<&ParamSpec> {
        let missing = || Error::Missing { name: spec.name.clone() };
        let name = match spec.layer {
            Some(student) => {
                let teacher = self.plan.layers().get(student).ok_or_else(missing)?.layer;
                spec.name.replacen(&format!("layers.{student}."), &format!("layers.{teacher}."), 1)
            }
            None => spec.name.clone(),
        };
        self.of.get(&name).ok_or_else(missing)
    }

    /// What is kept of the inputs (the last dimension) of the teacher's parameter.
    ///
    /// # Errors
    /// [`Error::Missing`], those of the plan.
    pub(crate) fn kept_inputs(&self, spec: &ParamSpec) -> Result<Vec<usize>> {
        let of = self.teacher_spec(spec)?;
        let (Some(&a), Some(&all)) = (of.axes.last(), of.shape.last()) else {
            return Err(Error::Missing { name: spec.name.clone() });
        };
        Ok(self.plan.indices(axis(a), of.layer)?.map_or_else(|| (0..all).collect(), |kept| kept.into_owned()))
    }

    /// The kept rows of the teacher's matrix, whole: `[kept outputs, all inputs]`.
    ///
    /// # Errors
    /// Those of [`Cut::slice`].
    pub(crate) fn rows(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        let of = self.teacher_spec(spec)?;
        let mut axes: Vec<paring_prune::Axis> = of.axes.iter().map(|&a| axis(a)).collect();
        axes.iter_mut().skip(1).for_each(|a| *a = paring_prune::Axis::Fixed);
        let mut values = self.teacher.read(of)?;
        merge(self.plan, of, &mut values)?;
        Ok(self.plan.selection(&of.name, &of.shape, &axes, of.layer)?.select(&values)?)
    }

    /// The slice of the teacher's parameter, whether it was replaced or not.
    ///
    /// # Errors
    /// [`Error::Missing`], those of the teacher's weights and of the plan.
    pub fn slice(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        let of = self.teacher_spec(spec)?;
        let axes: Vec<paring_prune::Axis> = of.axes.iter().map(|&a| axis(a)).collect();
        let selection = self.plan.selection(&of.name, &of.shape, &axes, of.layer)?;
        let mut values = self.teacher.read(of)?;
        merge(self.plan, of, &mut values)?;
        if selection.is_identity() { Ok(values) } else { Ok(selection.select(&values)?) }
    }
}

impl<W: Weights> Weights for Cut<'_, W> {
    fn arch(&self) -> &Arch {
        &self.arch
    }

    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        match self.replaced.get(&spec.name) {
            Some(values) => Ok(values.clone()),
            None => self.slice(spec),
        }
    }
}
