use fake::Fake;
use fake::faker::name::en::Name;
use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};
use uuid::{Builder, Uuid};

use crate::User;

/// `size` users that depend on `seed` alone; a smaller page is a prefix of a larger one.
///
/// The generator is `ChaCha12`, named and not `StdRng`, whose output may change with any release of `rand`.
pub fn fake_users(seed: u64, size: usize) -> Vec<User> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    (0..size)
        .map(|_| {
            let external_id = random_uuid(&mut rng);
            let name: String = Name().fake_with_rng(&mut rng);
            User::new(external_id, name)
        })
        .collect()
}

fn random_uuid(rng: &mut ChaCha12Rng) -> Uuid {
    Builder::from_random_bytes(rng.random()).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Fails when `fake` changes its list of names or `rand` its generator: the demos' data would change.
    #[test]
    fn seed_zero_is_golden() {
        let users = fake_users(0, 2);
        let shown: Vec<String> =
            users.iter().map(|u| format!("{} {} {}", u.id, u.external_id, u.name)).collect();
        assert_eq!(
            shown,
            [
                "497f9f64-8798-5fed-a687-7e04e44680ee 7fb27b94-1602-401d-9154-2211134fc71a Lia Rohan",
                "a524ccd2-8265-57e9-9fb2-dbd33ea11e92 54e37e7d-007b-4b7b-95ef-f062a2849a63 Claud Walsh",
            ]
        );
    }

    #[test]
    fn a_thousand_pages_hold_ten_thousand_distinct_users() {
        let ids: HashSet<Uuid> = (0..1000).flat_map(|seed| fake_users(seed, 10)).map(|u| u.id).collect();
        assert_eq!(ids.len(), 10_000);
    }

    proptest! {
        #[test]
        fn a_smaller_page_is_a_prefix_of_a_larger_one(seed: u64, small in 0_usize..20, more in 0_usize..20) {
            prop_assert_eq!(&fake_users(seed, small + more)[..small], &fake_users(seed, small)[..]);
        }

        #[test]
        fn external_ids_are_random_uuids_of_version_four(seed: u64) {
            prop_assert!(fake_users(seed, 5).iter().all(|u| u.external_id.get_version_num() == 4));
        }
    }
}
