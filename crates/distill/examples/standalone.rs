//! Fits three logits to a teacher's by gradient descent on the forward KL.
fn main() {
    let teacher = [2.0f32, 0.5, -1.0];
    let mut student = [0.0f32; 3];
    let mut grad = [0.0f32; 3];
    for step in 0..=40 {
        let loss = paring_distill::forward_kl_row(1.0, &student, &teacher, &mut grad);
        if step % 10 == 0 {
            println!("step {step:>2}: KL {loss:.6}");
        }
        for (s, g) in student.iter_mut().zip(&grad) {
            *s -= 2.0 * g;
        }
    }
}
