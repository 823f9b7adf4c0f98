//! Who is beaten by nobody.

/// The indices of the points that no other point beats: none has both a lower or equal size and a lower or equal score, and one of them lower.
/// Ascending by size; of equal points all stay. Points with a number that is none are never on the front.
pub fn front(points: &[(f64, f64)]) -> Vec<usize> {
    let known = |p: &(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let beats = |a: &(f64, f64), b: &(f64, f64)| a.0 <= b.0 && a.1 <= b.1 && (a.0 < b.0 || a.1 < b.1);
    let mut front: Vec<usize> = (0..points.len())
        .filter(|&i| known(&points[i]) && !points.iter().any(|p| known(p) && beats(p, &points[i])))
        .collect();
    front.sort_by(|&a, &b| points[a].0.total_cmp(&points[b].0).then(a.cmp(&b)));
    front
}

#[cfg(test)]
mod tests {
    use super::front;

    #[test]
    fn only_the_unbeaten_are_on_the_front() {
        let points = [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 2.5), (3.0, 1.0), (4.0, 0.5), (0.5, f64::NAN)];
        assert_eq!(front(&points), [1, 2, 0, 4, 5]);
        assert!(front(&[]).is_empty());
    }
}
