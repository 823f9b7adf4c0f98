//! Multiple choice by log-likelihood, as EleutherAI's lm-evaluation-harness counts it: the answer is the choice whose tokens the model finds
//! most likely after the context.
use crate::{Criterion, QuestionError};
use paring_exec::{Ctx, KvCache};
use paring_model::{Arch, Batch, Model, Result};
use paring_ops::Backend;
use paring_tensor::Tensor;
use serde::Serialize;

/// One choice of a question as token ids: what the tokenizer makes of context and choice together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Ids of context and choice.
    pub ids: Vec<u32>,
    /// How many of them are the context's; the others are the choice's.
    pub context: usize,
    /// Characters of the choice, which the normalised accuracy divides by.
    pub characters: usize,
}

/// Where the tokens of a choice are predicted: by rows `first_row..` of one of the question's sequences.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    sequence: usize,
    first_row: usize,
    targets: Vec<u32>,
    characters: f64,
}

/// A question: what has to run for it, and where in it the choices are predicted.
///
/// The last token of a choice predicts nothing and does not run. A sequence that is the beginning of another one does not run either: its
/// tokens see the same ones before them there. So the choices of one token (A, B, C, D) take one run for all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    sequences: Vec<Vec<u32>>,
    answers: Vec<Answer>,
    gold: usize,
    /// Tokens with which all sequences begin, and that predict nothing that counts: they may run once.
    shared: usize,
}

impl Question {
    /// A question for models like `arch`; `gold` is the right choice, from 0.
    ///
    /// # Errors
    /// A [`QuestionError`] that says what is wrong with it.
    pub fn new(arch: &Arch, choices: Vec<Choice>, gold: usize) -> std::result::Result<Self, QuestionError> {
        if choices.is_empty() {
            return Err(QuestionError::NoChoices);
        }
        if choices.len() <= gold {
            return Err(QuestionError::Gold { got: gold, choices: choices.len() });
        }
        for (choice, c) in choices.iter().enumerate() {
            let tokens = c.ids.len();
            if c.context == 0 {
                return Err(QuestionError::NoContext { choice });
            }
            if tokens <= c.context || c.characters == 0 {
                return Err(QuestionError::EmptyChoice { choice });
            }
            if arch.max_positions < tokens {
                return Err(QuestionError::TooLong { choice, tokens, max: arch.max_positions });
            }
            if let Some(&id) = c.ids.iter().find(|&&id| arch.vocab <= id as usize) {
                return Err(QuestionError::Token { choice, id, vocab: arch.vocab });
            }
        }
        Ok(Question::lay_out(&choices, gold))
    }

    fn lay_out(choices: &[Choice], gold: usize) -> Self {
        let input = |c: &Choice| c.ids[..c.ids.len() - 1].to_vec();
        let mut sequences: Vec<Vec<u32>> = Vec::new();
        for c in choices {
            let ids = input(c);
            if sequences.iter().any(|s| s.starts_with(&ids)) {
                continue;
            }
            sequences.retain(|s| !ids.starts_with(s));
            sequences.push(ids);
        }
        let answer = |c: &Choice| {
            let ids = input(c);
            Answer {
                sequence: sequences.iter().position(|s| s.starts_with(&ids)).unwrap_or(0),
                first_row: c.context - 1,
                targets: c.ids[c.context..].to_vec(),
                characters: c.characters as f64,
            }
        };
        let answers: Vec<Answer> = choices.iter().map(answer).collect();
        let first = &sequences[0];
        let alike = |s: &Vec<u32>| s.iter().zip(first).take_while(|(a, b)| a == b).count();
        let common = sequences.iter().map(alike).min().unwrap_or(0);
        let shared = answers.iter().map(|a| a.first_row).min().unwrap_or(0).min(common);
        Question { sequences, answers, gold, shared }
    }

    /// Tokens that run when nothing is shared between sequences.
    fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// Whether to run the shared beginning once, with a cache. A continuation of a few tokens reads all weights for itself, which takes about
    /// as long as [`CONTINUATION`] tokens among many.
    fn is_worth_a_cache(&self) -> bool {
        CONTINUATION * self.sequences.len() < self.shared * (self.sequences.len() - 1)
    }

    /// `correct`, `correct_norm`, and the negative log-likelihood of the right choice, from those of all choices.
    fn judge(&self, nll: &[f64]) -> Vec<f64> {
        let best = |score: &dyn Fn(usize) -> f64| {
            // The first of equals, as in NumPy's argmax.
            (0..nll.len()).fold(0, |best, i| if score(best) < score(i) { i } else { best })
        };
        let right = |choice: usize| f64::from(u8::from(choice == self.gold));
        let by_sum = best(&|i| -nll[i]);
        let by_length = best(&|i| -nll[i] / self.answers[i].characters);
        vec![right(by_sum), right(by_length), nll[self.gold]]
    }
}

/// What a run of few tokens costs besides its arithmetic, in tokens of a long run.
const CONTINUATION: usize = 32;

/// Tokens that run at once.
const TOKENS_AT_ONCE: usize = 1024;

/// Fewer tokens than this run alone: backends multiply a few rows in an order of its own, which must not depend on the company.
pub(crate) const ALONE: usize = 16;

/// A multiple-choice task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    questions: Vec<Question>,
}

/// How well a model does on a task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TaskScore {
    /// Part of the questions whose right choice has the highest sum of log-likelihoods.
    pub accuracy: f64,
    /// The same with each sum divided by the characters of the choice: the harness's `acc_norm`.
    pub accuracy_norm: f64,
    /// Standard error of `accuracy`: `sqrt(p (1 - p) / (n - 1))`; none for a single question.
    pub stderr: Option<f64>,
    /// Standard error of `accuracy_norm`.
    pub stderr_norm: Option<f64>,
    /// Mean negative log-likelihood of the right choices, nats per choice.
    pub gold_nll: f64,
    /// Questions.
    pub n: u64,
}

/// `sqrt(p (1 - p) / (n - 1))`: the standard error of the mean of `n` zeros and ones, their variance estimated with `n - 1`.
fn stderr(p: f64, n: u64) -> Option<f64> {
    (1 < n).then(|| (p * (1.0 - p) / (n - 1) as f64).sqrt())
}

impl TaskScore {
    /// From the scores of a [`Task`] of `n` questions as a [`Criterion`].
    pub fn new(scores: &[f64], n: u64) -> Self {
        let at = |i: usize| scores.get(i).copied().unwrap_or(f64::NAN);
        let (accuracy, accuracy_norm) = (at(0), at(1));
        let (stderr, stderr_norm) = (stderr(accuracy, n), stderr(accuracy_norm, n));
        TaskScore { accuracy, accuracy_norm, stderr, stderr_norm, gold_nll: at(2), n }
    }
}

impl Task {
    /// `None` without a question: then there is no accuracy.
    pub fn new(questions: Vec<Question>) -> Option<Self> {
        (!questions.is_empty()).then_some(Task { questions })
    }

    /// Questions.
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Never: a task has a question.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    /// How well `model` does. A context of some length runs once for all choices behind it, with a cache; short questions run packed.
    /// `progress` is told the number of questions done, and says whether to go on; `None` when it said no.
    ///
    /// # Errors
    /// Those of the model.
    pub fn evaluate(
        &self,
        backend: &dyn Backend,
        model: &Model,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<TaskScore>> {
        let longest = self.questions.iter().filter(|q| q.is_worth_a_cache()).flat_map(|q| &q.sequences).map(Vec::len);
        let mut cache = longest.max().map(|n| model.kv_cache(backend, n)).transpose()?;
        let (mut sums, mut at) = (vec![0.0; 3], 0);
        while at < self.questions.len() {
            let end = match &mut cache {
                Some(cache) if self.questions[at].is_worth_a_cache() => {
                    add(&mut sums, &self.questions[at].run_cached(backend, model, cache)?);
                    at + 1
                }
                _ => {
                    let end = self.together(at);
                    self.run_packed(backend, model, at..end, &mut sums)?;
                    end
                }
            };
            at = end;
            if !progress(at) {
                return Ok(None);
            }
        }
        Ok(Some(TaskScore::new(&self.scores(&sums), self.len() as u64)))
    }

    /// The end of the questions from `at` on that run packed.
    fn together(&self, at: usize) -> usize {
        let (mut end, mut tokens) = (at, 0);
        while let Some(q) = self.questions.get(end) {
            tokens += q.tokens();
            let alone = q.tokens() <= ALONE || q.is_worth_a_cache();
            if at < end && (alone || TOKENS_AT_ONCE < tokens) {
                break;
            }
            end += 1;
            if alone {
                break;
            }
        }
        end
    }

    fn run_packed(
        &self,
        backend: &dyn Backend,
        model: &Model,
        units: std::ops::Range<usize>,
        sums: &mut [f64],
    ) -> Result<()> {
        let batch = Batch::pack(units.clone().flat_map(|unit| self.sequences(unit)));
        let x = model.hidden(&mut Ctx::infer(backend), &batch, None)?.tensor;
        let mut row = 0;
        for unit in units {
            let tokens = self.questions[unit].tokens();
            let x = x.rows(row..row + tokens).map_err(paring_ops::Error::in_op("task"))?;
            add(sums, &self.measure(backend, model, unit, &x)?);
            row += tokens;
        }
        Ok(())
    }
}

fn add(sums: &mut [f64], values: &[f64]) {
    sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
}

impl Question {
    /// The negative log-likelihood of every choice; `x` has the rows of every sequence from row `from` on.
    fn nll(&self, backend: &dyn Backend, model: &Model, from: usize, x: &[Tensor]) -> Result<Vec<f64>> {
        let one = |a: &Answer| {
            let rows = a.first_row - from..a.first_row - from + a.targets.len();
            let x = x[a.sequence].rows(rows).map_err(paring_ops::Error::in_op("task"))?;
            let nll = backend.head_cross_entropy(None, &x, &model.head().tensor, &a.targets, 1.0)?;
            if nll.is_finite() {
                return Ok(nll);
            }
            let message = format!("task: the likelihood of a choice is {nll}, expected a number; check the checkpoint");
            Err(paring_ops::Error::Observer { message }.into())
        };
        self.answers.iter().map(one).collect()
    }

    fn run_cached(&self, backend: &dyn Backend, model: &Model, cache: &mut KvCache) -> Result<Vec<f64>> {
        cache.truncate(0);
        let shared = Batch::continuing(&self.sequences[0][..self.shared], 0);
        model.hidden(&mut Ctx::infer(backend), &shared, Some(cache))?;
        let mut rest = |ids: &Vec<u32>| {
            cache.truncate(self.shared);
            let batch = Batch::continuing(&ids[self.shared..], self.shared);
            Ok(model.hidden(&mut Ctx::infer(backend), &batch, Some(cache))?.tensor)
        };
        let x: Vec<Tensor> = self.sequences.iter().map(&mut rest).collect::<Result<_>>()?;
        Ok(self.judge(&self.nll(backend, model, self.shared, &x)?))
    }
}

/// Scores: accuracy, accuracy by length, mean negative log-likelihood of the right choices. The accuracy decides, the likelihood where it is
/// the same.
impl Criterion for Task {
    fn units(&self) -> usize {
        self.questions.len()
    }

    fn sequences(&self, unit: usize) -> Vec<&[u32]> {
        self.questions.get(unit).map_or(Vec::new(), |q| q.sequences.iter().map(Vec::as_slice).collect())
    }

    fn measure(&self, backend: &dyn Backend, model: &Model, unit: usize, x: &Tensor) -> Result<Vec<f64>> {
        let question = &self.questions[unit];
        let mut row = 0;
        let mut part = |s: &Vec<u32>| {
            row += s.len();
            x.rows(row - s.len()..row).map_err(|e| paring_ops::Error::in_op("task")(e).into())
        };
        let x: Vec<Tensor> = question.sequences.iter().map(&mut part).collect::<Result<_>>()?;
        Ok(question.judge(&question.nll(backend, model, 0, &x)?))
    }

    fn scores(&self, sums: &[f64]) -> Vec<f64> {
        sums.iter().map(|sum| sum / self.questions.len() as f64).collect()
    }

    fn better(&self, a: &[f64], b: &[f64]) -> bool {
        match (a, b) {
            ([a, .., a_nll], [b, .., b_nll]) => b < a || (a == b && a_nll < b_nll),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_for_long_contexts_with_several_choices_behind_them() {
        let question = |context: usize, choices: usize, tokens: usize| {
            let choice = |c: usize| {
                let rest = (0..tokens).map(|t| (7 + 10 * c + t) as u32);
                Choice { ids: (0..context as u32).chain(rest).collect(), context, characters: 1 }
            };
            let choices: Vec<Choice> = (0..choices).map(choice).collect();
            Question::lay_out(&choices, 0)
        };
        for (context, choices, tokens, worth) in [
            (100, 4, 3, true),
            (100, 2, 3, true),
            (20, 4, 3, false),
            (60, 2, 3, false),
            (500, 1, 3, false),
            (500, 4, 1, false),
        ] {
            let q = question(context, choices, tokens);
            assert_eq!(q.is_worth_a_cache(), worth, "{choices} choices of {tokens} tokens behind {context}");
            // The last token of the context predicts, so it runs with each choice.
            assert_eq!(q.shared, context - 1);
        }
    }
}
