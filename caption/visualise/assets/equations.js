"use strict";
// The equations of Xu et al. (2015) in MathML, which browsers show without a library. Names are the paper's.

const { SYMBOLS, EQUATIONS } = (() => {
  const mi = (name) => `<mi>${name}</mi>`;
  const vec = (name) => `<mi mathvariant="normal" class="vector">${name}</mi>`; // vectors and matrices are upright and bold
  const mo = (sign) => `<mo stretchy="false">${sign}</mo>`;
  const sub = (base, ...index) => `<msub>${base}<mrow>${index.join("")}</mrow></msub>`;
  const fn = (name, ...argument) => `${name}${mo("(")}${argument.join("")}${mo(")")}`;
  const named = (name) => `<mi mathvariant="normal">${name}</mi>`;
  const sum = (under) => `<munder>${mo("∑")}${under}</munder>`;
  const frac = (over, under) => `<mfrac><mrow>${over}</mrow><mrow>${under}</mrow></mfrac>`;
  const math = (...parts) => `<math>${parts.join("")}</math>`;

  const i = mi("i"), t = mi("t"), before = t + mo("−") + "<mn>1</mn>";
  const at = (name, ...index) => sub(vec(name), ...(index.length ? index : [t]));
  const hBefore = at("h", before), aI = at("a", i), alphaTI = sub(mi("α"), t, i), eTI = sub(mi("e"), t, i);
  const W = (index) => sub(vec("W"), mi(index)), gatedZ = `${sub(mi("β"), t)}${at("z")}`;
  const fInit = (name) => `${sub(mi("f"), named("init"), mo(","), mi(name))}`;
  const meanA = `${frac("<mn>1</mn>", mi("L"))}${sum(i)}${aI}`;

  const deepOutput = `${vec("E")}${at("y", before)}${mo("+")}${sub(vec("L"), mi("h"))}${at("h")}${mo("+")}${sub(vec("L"), mi("z"))}${gatedZ}`;

  const symbols = {
    Ey: math(vec("E"), at("y", before)), hBefore: math(hBefore), cBefore: math(at("c", before)), z: math(at("z")),
    i: math(at("i")), f: math(at("f")), o: math(at("o")), g: math(at("g")), c: math(at("c")), h: math(at("h")),
    deep: math(vec("d")),
  };

  const query = `${W("h")}${hBefore}`, key = `${W("a")}${aI}`;
  const tanhScore = (joined) => `<msup>${vec("v")}${mo("⊤")}</msup>${fn(named("tanh"), joined)}`;
  const SCORE_EQUATIONS = {
    additive: tanhScore(`${key}${mo("+")}${query}`),
    concat: tanhScore(`${vec("W")}${mo("[")}${hBefore}${mo(";")}${aI}${mo("]")}`),
    dot: `<msubsup>${vec("h")}<mrow>${before}</mrow>${mo("⊤")}</msubsup>${aI}`,
    general: `<msubsup>${vec("h")}<mrow>${before}</mrow>${mo("⊤")}</msubsup>${key}`,
    scaled_dot: frac(`<msup><mrow>${mo("(")}${query}${mo(")")}</mrow>${mo("⊤")}</msup>${mo("(")}${key}${mo(")")}`, `<msqrt>${mi("A")}</msqrt>`),
  };

  const overTemperature = (e, model) => (model.temperature === 1 ? e : `${e}${mo("/")}<mn>${model.temperature}</mn>`);
  const gate = (name, squash) => math(at(name), mo("="), fn(squash, sub(vec("T"), mi(name)), vec("x")));
  const eTK = sub(mi("e"), t, mi("k"));

  const phi = `${at("z")}${mo("=")}${fn(mi("φ"), mo("{"), aI, mo("}"), mo(","), mo("{"), alphaTI, mo("}"))}`;
  const movedAlpha = sub("<mover><mi>α</mi><mo>~</mo></mover>", t, i);

  // The equations of each step, as [number, MathML]; those of the weights depend on the model and on how it reads.
  const equations = {
    start: () => [["", math(at("c", "<mn>0</mn>"), mo("="), fn(fInit("c"), meanA))], ["", math(at("h", "<mn>0</mn>"), mo("="), fn(fInit("h"), meanA))]],
    scores: (model) => [["4", math(eTI, mo("="), fn(sub(mi("f"), named("att")), aI, mo(","), hBefore))], ["", math(mo("="), SCORE_EQUATIONS[model.score])]],
    weights: (model) => [["5", math(alphaTI, mo("="), frac(fn(named("exp"), overTemperature(eTI, model)), `${sum(mi("k"))}${fn(named("exp"), overTemperature(eTK, model))}`))]],
    expectation: () => [["6, 13", math(phi, mo("="), sum(i), alphaTI, aI)]],
    location: () => [["6, 9", math(phi, mo("="), sum(i), sub(mi("s"), t, i), aI)], ["", math(sub(mi("s"), t, i), mo("="), "<mn>1</mn>", named("&nbsp;at the largest&nbsp;"), alphaTI)]],
    moved: () => [["6, 13", math(at("z"), mo("="), sum(i), movedAlpha, aI)], ["", math(movedAlpha, mo("="), named("the moved light"))]],
    beta: () => [["4.2.1", math(sub(mi("β"), t), mo("="), fn(mi("σ"), fn(sub(mi("f"), mi("β")), hBefore)))]],
    gates: () => [
      ["1", math(vec("x"), mo("="), mo("["), vec("E"), at("y", before), mo(";"), hBefore, mo(";"), gatedZ, mo("]"))],
      ["", gate("i", mi("σ"))], ["", gate("f", mi("σ"))], ["", gate("o", mi("σ"))], ["", gate("g", named("tanh"))],
    ],
    state: () => [
      ["2", math(at("c"), mo("="), at("f"), mo("⊙"), at("c", before), mo("+"), at("i"), mo("⊙"), at("g"))],
      ["3", math(at("h"), mo("="), at("o"), mo("⊙"), fn(named("tanh"), at("c")))],
    ],
    output: () => [
      ["7", math(fn(mi("p"), at("y"), mo("|"), vec("a"), mo(","), "<msubsup><mi mathvariant='normal' class='vector'>y</mi><mn>1</mn><mrow>" + before + "</mrow></msubsup>"), mo("∝"), fn(named("exp"), sub(vec("L"), mi("o")), vec("d")))],
      ["", math(vec("d"), mo("="), deepOutput)],
    ],
  };

  return { SYMBOLS: symbols, EQUATIONS: equations };
})();
