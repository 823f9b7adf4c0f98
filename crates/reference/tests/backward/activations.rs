//! Activations of MLPs: backward against differences of the forward, and values that other programs computed.
use crate::common::{assert_gradient, f32s, grid, rubbish, values, weighted};
use paring_ops::{Activation, Backend};
use paring_reference::Reference;

const B: Reference = Reference;

#[test]
fn gated() {
    let n = 29;
    let (gate, up, dy) = (grid(n, 1).iter().map(|g| 4.0 * g).collect::<Vec<f32>>(), grid(n, 2), grid(n, 3));
    for act in Activation::ALL {
        let forward = |gate: &[f32], up: &[f32]| {
            let mut y = rubbish(&[n]);
            B.gated(&mut y, act, &f32s(gate, &[n]), &f32s(up, &[n])).unwrap();
            weighted(&values(&y), &dy)
        };
        let (mut dgate, mut dup) = (rubbish(&[n]), rubbish(&[n]));
        let (dyt, gt, ut) = (f32s(&dy, &[n]), f32s(&gate, &[n]), f32s(&up, &[n]));
        B.gated_backward(&mut dgate, &mut dup, act, &dyt, &gt, &ut).unwrap();
        assert_gradient(&format!("dgate {act:?}"), &values(&dgate), &away(&gate), |gate| forward(gate, &up));
        assert_gradient(&format!("dup {act:?}"), &values(&dup), &up, |up| forward(&gate, up));
    }
}

/// Differences of the fourth order across the kink in the second derivative of `relu2` are wrong: no input is as near as that.
fn away(x: &[f32]) -> Vec<f32> {
    assert!(x.iter().all(|x| x.abs() >= 0.125), "{x:?}");
    x.to_vec()
}

#[test]
fn plain() {
    let n = 29;
    let (x, dy) = (grid(n, 1).iter().map(|g| 4.0 * g).collect::<Vec<f32>>(), grid(n, 3));
    for act in Activation::ALL {
        let forward = |x: &[f32]| {
            let mut y = rubbish(&[n]);
            B.activation(&mut y, act, &f32s(x, &[n])).unwrap();
            weighted(&values(&y), &dy)
        };
        let mut dx = rubbish(&[n]);
        B.activation_backward(&mut dx, act, &f32s(&dy, &[n]), &f32s(&x, &[n])).unwrap();
        assert_gradient(&format!("dx {act:?}"), &values(&dx), &away(&x), forward);
    }
}

#[test]
fn values_of_torch() {
    let x = [-6.0f32, -3.0, -1.0, -0.25, 0.0, 0.5, 1.0, 2.5, 7.0];
    // torch 2: F.silu(x), F.gelu(x), F.gelu(x, approximate="tanh"), F.relu(x).square(), in float64.
    let torch: [(Activation, [f64; 9]); 4] = [
        (
            Activation::Silu,
            [
                -1.483573894e-02,
                -1.422776195e-01,
                -2.689414214e-01,
                -1.094558748e-01,
                0.0,
                3.112296656e-01,
                7.310585786e-01,
                2.310354550e+00,
                6.993622642e+00,
            ],
        ),
        (
            Activation::Gelu,
            [
                -5.919525869e-09,
                -4.049694095e-03,
                -1.586552539e-01,
                -1.003234186e-01,
                0.0,
                3.457312306e-01,
                8.413447461e-01,
                2.484475837e+00,
                7.000000000e+00,
            ],
        ),
        (
            Activation::GeluTanh,
            [
                -8.439648980e-11,
                -3.637392082e-03,
                -1.588080094e-01,
                -1.003246493e-01,
                0.0,
                3.457140098e-01,
                8.411919906e-01,
                2.484915734e+00,
                7.000000000e+00,
            ],
        ),
        (
            Activation::Relu2,
            [0.0, 0.0, 0.0, 0.0, 0.0, 2.500000000e-01, 1.000000000e+00, 6.250000000e+00, 4.900000000e+01],
        ),
    ];
    for (act, want) in torch {
        let mut y = rubbish(&[x.len()]);
        B.activation(&mut y, act, &f32s(&x, &[x.len()])).unwrap();
        for (y, want) in values(&y).iter().zip(want) {
            // torch adds tanh to 1, which leaves an error of about x 2^-53 where they cancel.
            assert!((f64::from(*y) - want).abs() <= 1e-7 * want.abs() + 1e-15, "{act:?}: {y} against {want}");
        }
    }
}
