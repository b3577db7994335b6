"""Secure aggregation: masks that vanish in the sum, so that the coordinator sees no single update, even if it cheats.

SecAgg of Bonawitz et al. 2017 (ACM CCS) against an active adversary (their section 6.2), in the graph language of
SecAgg+ (Bell et al. 2020, ACM CCS) on the complete graph: with a few dozen institutions everybody is everybody's
neighbour, and the sparse graph would save nothing. All functions here take and return plain data;
`client.round.secagg` keeps an institution's secrets for one round, and `server.secagg` leads through it:

1. keys: every institution trains, then announces two fresh public keys, one for sealing and one for masks, and what its
   word counts for, signed with its node key;
2. shares: it draws a mask seed, splits the seed and its private mask key by Shamir's scheme, any `threshold` shares of
   which give the secret, and seals one share of each for every peer;
3. open: it opens what the peers have sealed for it, and says whose does not open: whoever sent that is left out;
4. mask: it multiplies its update by its weight, and adds a mask from its seed, and for each peer that has shared one
   from the key agreed with that peer, added by one of the two and subtracted by the other;
5. confirm: it signs whose masked updates are to be in the sum, once;
6. unmask: shown `threshold` signatures of the same list, it gives its shares of the seeds of those on it, and of the
   mask keys of the others. The coordinator rebuilds these and takes the masks off the sum.

An institution may go away after any of these steps; its vector is in the sum if it came. Fewer than `threshold` at the
last step, and there is no sum.

What is promised. The adversary is the coordinator, who may send anything to anybody, together with at most
2 threshold - n - 1 of the n institutions (at least a third of n, rounded up, less one, by the rule for `threshold`;
n - 1 if `threshold` is n). It learns one sum a round at most: of the weighted updates of at least `threshold`
institutions, the others' among them with the weights that follow from what they signed, none above `rounds.max_share`.
Node keys are part of the agreement, so a coordinator cannot put keys of its own in the place of a peer's; every key is
there once by its x-coordinate; and the whole view of a round enters every mask and seal, so that institutions which
were shown different rounds give noise. The bound is Bonawitz et al.'s 2 t > n + n_c: without it two lists of survivors
could both find enough who sign and help.

What is not. Vectors are not proven honest: whoever sends a false one, or deals shares that fit nothing, spoils the sum,
and whoever claims falsely that a share does not open keeps its sender out of the round. The sum itself reveals what
sums reveal. The same round trained twice with others gives two sums, whose difference reveals the one who is missing.
"""
