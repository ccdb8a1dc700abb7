//! The people of the demos: a [`User`], its name-based id, and any number of fake users.
//!
//! Every function here depends on its arguments alone. Equal seeds give equal users, so a step that generates a page
//! may run twice without a difference.
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
