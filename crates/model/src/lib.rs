//! The people of the demos: a [`User`], its name-based id, and as many fake ones as you like.
//!
//! Everything here is a pure function of its arguments. The same seed gives the same users, so a step that
//! generates a page may run twice and nobody can tell.
//!
//! ```
//! let page = model::fake_users(0, 10);
//! assert_eq!(page.len(), 10);
//! assert_eq!(page[..3], model::fake_users(0, 3));
//! assert_eq!(page[0].id, model::User::id_of(page[0].external_id, &page[0].name));
//! ```
//!
//! Does not know: databases, workflows.

mod fake_users;
mod user;

pub use fake_users::fake_users;
pub use user::User;
