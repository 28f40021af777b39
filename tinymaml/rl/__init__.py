"""Reinforcement learning: MAML whose data depend on θ, since the policy that acts is the one that is learned.

In supervised MAML a task's support set is given. Here it is sampled by π_θ, so θ has a part in it, and a meta-gradient
that does not know this is wrong from its second order on. Read in this order:

    returns        what trajectories are worth: discounted returns, advantages (GAE), the linear baseline
    surrogates     what an inner step ascends: likelihood ratio, LVC, DiCE, loaded DiCE, E-MAML, one function each
    tabular        a decision process of which every trajectory can be written down, so that J is exact
    exact          expectations of surrogates' derivatives and of whole meta-gradients: which is right, and of what?

    environments/  where trajectories come from, one file each; the interface of Gymnasium's vector environments
    policies       Gaussian and categorical, for many tasks at once
    collect        act, and record a batch; what an environment must not do is named

`algorithms.maml_rl` makes these into an algorithm, and `families.navigation` into a family of tasks.

A *batch* is what one task collected with one policy, N trajectories of horizon H:

    observations (N, H, d)    actions (N, H, a) or (N, H)    rewards, mask, logp, advantages, values: (N, H) each

The mask is 1 while an episode runs. `logp` is log π of the policy that acted, `values` the baseline b_t (0 without
one), `advantages` what the baseline leaves of the returns. All of it is data, through which no derivative flows.
"""
