"""GDSD: guided denoiser self-distillation for masked diffusion language models (arXiv 2605.29398). No Flyte in here.

Symbols of the paper, and what they are called here:

    psi    guidance            logit shift per token and unit of advantage
    beta   reference_weight    pull of the target towards the base policy
    A      advantage           reward of a completion less the mean of its group's others
    theta, old, ref            the policy in training, the one that made the rollouts, the base
    M, M'  a mask and its complement: a coupled pair hides every token once
    d      score               mean over a completion's tokens of their readout
    TLC    centred readout     a token's logit less the mean logit

Shape letters, everywhere:

    P prompts   G completions per prompt   B = P * G sequences   S prompt tokens   L completion tokens
    V vocabulary   D hidden width   K mask pairs per sequence   N inner steps   R rows picked out of (C, B, L)
    C views of a completion, in each of which some tokens are hidden and read out: 2 * K with coupled masks

A folder is a stage, or something that several stages share. Each imports only what stands before it:

    strict, errors, seeds, files, tables, transient    refusals, random numbers by address, files, schemas
    modules, sandbox, domains, config, records         code, hostile programs, problems, configurations, reports
    denoiser, objectives                               the model; losses as pure functions
    prompts, rollout, reward, distill, evaluate        the stages of a round, in their order
    resident                                           rounds of these stages in memory
    run, report, publish, registry, planning           the run as a whole, and what comes of it
    library                                            the loop without Flyte, for scripts and notebooks

Read objectives/gdsd, seeds and distill/masking first; docs/tour.md follows one completion through the rest.
"""
