//! Error types that the program registered, and the record of each error.

use std::any::TypeId;
use std::error::Error as StdError;
use std::sync::{PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::pure::causes::{chain, message_of};
use crate::pure::codec;
use crate::pure::error::{BoxError, Error, Failure, Result, UNNAMED, is_own_name, name_of_type};
use crate::pure::id::check_name;

/// Gives the data of an error, if the error is of the type.
type Data = fn(&(dyn StdError + 'static)) -> Option<Result<Value, String>>;

struct Known {
    name: String,
    error: TypeId,
    data: Data,
}

/// Error types by the names under which they are recorded.
#[derive(Default)]
pub(crate) struct KnownErrors(RwLock<Vec<Known>>);

impl KnownErrors {
    pub(crate) fn register<E>(&self, name: &str) -> Result<()>
    where
        E: StdError + Serialize + DeserializeOwned + 'static,
    {
        const WHAT: &str = "error name";
        check_name(WHAT, name)?;
        if is_own_name(name) {
            let reason =
                "is reserved for failures of the engine, as are all names that begin with Piton or DBOS; \
                          choose another name"
                    .to_owned();
            return Err(Error::InvalidName { what: WHAT, name: name.to_owned(), reason });
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let error = TypeId::of::<E>();
        if let Some(known) = known.iter().find(|known| known.name == name || known.error == error) {
            return Err(Error::AlreadyRegistered { what: "kind of error", name: known.name.clone() });
        }
        let data: Data = |error| error.downcast_ref::<E>().map(codec::tree);
        known.push(Known { name: name.to_owned(), error, data });
        Ok(())
    }

    /// The failure to record for an error of a user's function, and the error itself, which a caller may judge.
    pub(crate) fn failure_of<E: Into<BoxError> + 'static>(&self, error: E) -> (Failure, BoxError) {
        let name = name_of_type(std::any::type_name::<E>());
        let error = boxed(error);
        (self.told(name, error.as_ref()), error)
    }

    fn told(&self, name: &str, error: &(dyn StdError + 'static)) -> Failure {
        if let Some(told) = told_by_itself(error) {
            return told;
        }
        if let Some((name, data)) = self.registered(error) {
            let message = message_of(error);
            return match data {
                Ok(data) => Failure::new(name, message).with_data(data),
                Err(reason) => {
                    Failure::new(name, format!("{message} (its data cannot be recorded: {reason})"))
                }
            };
        }
        if name == UNNAMED
            && let Some(told) = chain(error).find_map(told_by_itself)
        {
            return told.with_message(message_of(error));
        }
        Failure::new(name, message_of(error))
    }

    /// The outermost error of the chain that is of a registered type.
    fn registered(&self, error: &(dyn StdError + 'static)) -> Option<(String, Result<Value, String>)> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            return None;
        }
        chain(error).find_map(|error| {
            known.iter().find_map(|known| (known.data)(error).map(|data| (known.name.clone(), data)))
        })
    }
}

/// The failure in an error that is a failure, or an error of the engine: these know their names.
fn told_by_itself(error: &(dyn StdError + 'static)) -> Option<Failure> {
    match (error.downcast_ref::<Failure>(), error.downcast_ref::<Error>()) {
        (Some(failure), _) => Some(failure.clone().of_the_work()),
        (_, Some(error)) => Some(Failure::of_engine(error)),
        _ => None,
    }
}

#[cfg(not(feature = "anyhow"))]
fn boxed<E: Into<BoxError>>(error: E) -> BoxError {
    error.into()
}

/// An `anyhow::Error` in a box hides the type of its error.
#[cfg(feature = "anyhow")]
fn boxed<E: Into<BoxError> + 'static>(error: E) -> BoxError {
    let mut error = Some(error);
    let any: &mut dyn std::any::Any = &mut error;
    match any.downcast_mut::<Option<anyhow::Error>>().and_then(Option::take) {
        Some(error) => error.reallocate_into_boxed_dyn_error_without_backtrace(),
        None => error.map_or_else(|| "nothing is known of the error".into(), Into::into),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
    #[error("card {card} declined")]
    struct Declined {
        card: u8,
        limit: Option<f64>,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("order 7")]
    struct Order(#[source] Declined);

    fn known() -> KnownErrors {
        let known = KnownErrors::default();
        known.register::<Declined>("card_declined").unwrap();
        known
    }

    fn declined() -> Declined {
        Declined { card: 4, limit: Some(1.5) }
    }

    #[test]
    fn a_registered_error_is_recorded_under_its_name_with_its_data() {
        let in_a_box: BoxError = declined().into();
        for failure in [known().failure_of(declined()).0, known().failure_of(in_a_box).0] {
            assert_eq!(failure.to_string(), "card_declined: card 4 declined");
            assert_eq!(failure.data::<Declined>().unwrap(), declined());
        }
        let as_a_cause = known().failure_of(Order(declined())).0;
        assert_eq!(as_a_cause.to_string(), "card_declined: order 7: card 4 declined");
        assert_eq!(as_a_cause.data::<Declined>().unwrap(), declined());
    }

    #[test]
    fn an_error_that_is_not_registered_has_its_types_name() {
        let failure = KnownErrors::default().failure_of(Order(declined())).0;
        assert_eq!(failure.to_string(), "Order: order 7: card 4 declined");
        let error = failure.data::<Declined>().unwrap_err().to_string();
        assert!(error.starts_with("data of error Order cannot be decoded: "), "{error}");
    }

    #[test]
    fn texts_and_boxed_errors_are_errors_too() {
        let said = |error: BoxError| KnownErrors::default().failure_of(error).0.to_string();
        assert_eq!(KnownErrors::default().failure_of("no luck").0.to_string(), "no luck");
        assert_eq!(KnownErrors::default().failure_of("no luck".to_owned()).0.to_string(), "no luck");
        assert_eq!(said("no luck".into()), "no luck");
    }

    #[test]
    fn data_that_would_not_survive_its_record_is_told_and_left_out() {
        let failure = known().failure_of(Declined { card: 4, limit: Some(f64::NAN) }).0;
        assert!(failure.message().contains("its data cannot be recorded: `limit` is NaN"), "{failure}");
        assert!(failure.data_value().is_null());
    }

    #[test]
    fn a_name_or_a_type_is_registered_once_and_names_of_the_engine_are_refused() {
        let known = known();
        let twice = known.register::<Declined>("other").unwrap_err().to_string();
        assert_eq!(twice, "a kind of error named `card_declined` is registered already");
        for name in ["", "PitonPanic", "DBOSAnything", "MaxRecoveryAttemptsExceeded"] {
            assert!(KnownErrors::default().register::<Declined>(name).is_err(), "{name}");
        }
    }

    #[test]
    fn an_error_in_a_box_keeps_the_name_of_the_failure_in_it() {
        #[derive(Debug, thiserror::Error)]
        #[error("while paying")]
        struct Paying(#[source] Failure);
        let in_a_box: BoxError = Paying(Failure::new("Declined", "no").with_code(402)).into();
        let failure = KnownErrors::default().failure_of(in_a_box).0;
        assert_eq!(failure.to_string(), "Declined: while paying: Declined: no");
        assert_eq!(failure.code_value(), 402);
    }

    #[cfg(feature = "anyhow")]
    #[test]
    fn an_anyhow_error_is_known_for_what_it_was_made_of() {
        use anyhow::Context as _;
        let plain = known().failure_of(anyhow::Error::new(declined())).0;
        assert_eq!(plain.to_string(), "card_declined: card 4 declined");
        let in_context = Err::<(), _>(declined()).context("order 7").unwrap_err();
        let (failure, error) = known().failure_of(in_context);
        assert_eq!(failure.to_string(), "card_declined: order 7: card 4 declined");
        assert_eq!(failure.data::<Declined>().unwrap(), declined());
        assert!(chain(error.as_ref()).any(<dyn StdError>::is::<Declined>), "should_retry may look for it");
        let text = known().failure_of(anyhow::anyhow!("no luck")).0;
        assert_eq!(text.to_string(), "no luck");
    }
}
