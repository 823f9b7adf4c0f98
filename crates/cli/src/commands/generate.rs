//! `paring generate`: continue a prompt.
use crate::{
    args::Generate,
    error::{Failure, Result},
    session::{Session, print},
    source::Source,
};
use paring_engine::Request;
use paring_model::LoadAs;
use paring_sampling::Sampler;
use serde_json::json;

pub(crate) fn run(args: &Generate) -> Result<()> {
    let session = Session::new(&args.common)?;
    let Some(prompt) = &args.prompt else {
        return Err(Failure::input("what to continue? give --prompt TEXT"));
    };
    let sampler = Sampler {
        temperature: args.temperature.unwrap_or(0.0),
        top_p: args.top_p.unwrap_or(1.0),
        top_k: args.top_k.unwrap_or(0),
        min_p: args.min_p.unwrap_or(0.0),
        seed: session.seed,
    }
    .checked()?;
    let source = Source::open(args.model.as_deref())?;
    let tokenizer = source.tokenizer()?;
    let ids = tokenizer.encode(prompt)?;
    let positions = source.opened.arch.max_positions;
    let room = positions.saturating_sub(ids.len());
    // Asked for more than fits is an error; the default is what fits.
    let max_tokens = args.max_tokens.unwrap_or(100.min(room));
    let model = source.load(session.backend(), session.load_as(LoadAs::Stored))?;
    let request = Request { prompt: ids, max_tokens, sampler, stop: source.stop_ids(&tokenizer)? };

    let mut stream = tokenizer.stream();
    let mut failure = None;
    if !session.is_json() {
        print(prompt)?;
    }
    let made = paring_engine::generate(session.backend(), &model, &request, &mut |id| {
        if session.is_json() {
            return true;
        }
        let piece = stream.push(id).map_err(Failure::from);
        match piece.and_then(|p| p.map_or(Ok(()), |p| print(&p))) {
            Ok(()) => true,
            Err(e) => {
                failure = Some(e);
                false
            }
        }
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let json = json!({
        "text": tokenizer.decode(&made.tokens)?, "tokens": made.tokens, "prefill_tokens_per_second": made.prefill_tokens_per_second,
        "decode_tokens_per_second": made.decode_tokens_per_second, "stopped": made.stopped,
    });
    session.print(&json, "\n")?;
    session.say(format!(
        "prefill {:.0} tokens/s, decode {:.1} tokens/s",
        made.prefill_tokens_per_second, made.decode_tokens_per_second
    ));
    Ok(())
}
