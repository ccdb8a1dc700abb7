//! The text of a user's error and of its causes. The error is foreign code: its text may be endless or panic, and its
//! chain of causes may be a ring.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::pure::error::Failure;
use crate::pure::limits::{CAUSES_MAX, ERROR_TEXT_BYTES_MAX};

/// Marks the place where a text was cut.
pub(crate) const CUT: &str = " (cut: the whole error was too large)";

/// The error and its causes, outermost first, at most [`CAUSES_MAX`] errors.
pub(crate) fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let cause = |error: &&'e (dyn Error + 'static)| {
        let error = *error;
        catch_unwind(AssertUnwindSafe(|| error.source())).ok().flatten()
    };
    std::iter::successors(Some(error), cause).take(CAUSES_MAX)
}

/// The text of an error and of its causes, each text once.
pub(crate) fn message_of(error: &(dyn Error + 'static)) -> String {
    let mut message = Bounded::default();
    for cause in chain(error) {
        let text = text_of(cause);
        if message.text.is_empty() {
            let _ = message.write_str(&text);
        } else if !message.text.contains(&text) {
            let _ = write!(message, ": {text}");
        }
    }
    message.finish()
}

fn text_of(error: &(dyn Error + 'static)) -> String {
    let mut text = Bounded::default();
    // The text is the part that was written, also when the call fails.
    let told = catch_unwind(AssertUnwindSafe(|| write!(text, "{error}")));
    if let Err(payload) = told {
        let failure = Failure::of_panic(payload.as_ref());
        crate::pure::sync::contained(|| drop(payload));
        let _ = write!(text, "(its text {})", failure.message());
    }
    text.finish()
}

/// A text that takes a limited number of bytes.
#[derive(Default)]
struct Bounded {
    text: String,
    is_cut: bool,
}

impl Bounded {
    fn finish(self) -> String {
        if self.is_cut { self.text + CUT } else { self.text }
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = ERROR_TEXT_BYTES_MAX.saturating_sub(self.text.len());
        if more.len() <= room && !self.is_cut {
            self.text.push_str(more);
            return Ok(());
        }
        if !self.is_cut {
            let whole_chars = (0..=room.min(more.len())).rev().find(|end| more.is_char_boundary(*end));
            self.text.push_str(&more[..whole_chars.unwrap_or(0)]);
            self.is_cut = true;
        }
        // A text without an end is stopped by this error.
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error in a ring of causes, whose text is made by a function.
    #[derive(Debug)]
    struct Odd {
        text: fn(&mut fmt::Formatter<'_>) -> fmt::Result,
        cause: fn() -> Option<&'static (dyn Error + 'static)>,
    }

    impl fmt::Display for Odd {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            (self.text)(f)
        }
    }

    impl Error for Odd {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            (self.cause)()
        }
    }

    static FIRST: Odd = Odd { text: |f| f.write_str("first"), cause: || Some(&SECOND) };
    static SECOND: Odd = Odd { text: |f| f.write_str("second"), cause: || Some(&THIRD) };
    static THIRD: Odd = Odd { text: |f| f.write_str("third"), cause: || Some(&FIRST) };

    #[test]
    fn a_ring_of_causes_is_told_once() {
        assert_eq!(message_of(&FIRST), "first: second: third");
        assert_eq!(chain(&FIRST).count(), CAUSES_MAX);
    }

    #[test]
    fn a_text_without_an_end_is_cut() {
        let endless = Odd {
            text: |f| {
                loop {
                    f.write_str("\u{1F9D7} and ")?;
                }
            },
            cause: || None,
        };
        let message = message_of(&endless);
        assert!(message.ends_with(CUT));
        assert!(message.len() < ERROR_TEXT_BYTES_MAX + 2 * CUT.len(), "{}", message.len());
    }

    #[test]
    fn a_cause_that_panics_costs_its_own_text_alone() {
        static IN_TEXT: Odd = Odd { text: |_| panic!("in display"), cause: || panic!("in source") };
        let outer = Odd { text: |f| f.write_str("outer"), cause: || Some(&IN_TEXT) };
        assert_eq!(message_of(&outer), "outer: (its text panicked: in display)");
    }
}
