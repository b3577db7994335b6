"""Contract clauses of the law firm: one hand-written clause a line, by split and label."""
# ruff: noqa: E501

TRAIN = {
    "confidentiality": """
The Consultant shall keep all Client information secret and shall not disclose it to any third party.
Each party shall protect the other's trade secrets with at least the care it applies to its own.
The receiving party may share the documents only with employees who need to know them for the project.
Neither party shall make any public announcement about this Agreement without the other's written consent.
The obligations of secrecy in this clause survive termination of the Agreement for five years.
The Employee shall not reveal customer lists, price models or source code to anyone outside the company.
Confidential Information does not include facts that are already public through no fault of the recipient.
If a court orders disclosure, the recipient shall first warn the owner of the information, where the law allows.
Upon request, all copies of the proprietary materials must be destroyed or handed back to the discloser.
The Supplier shall not use the Customer's unpublished drawings for any purpose other than performing the services.
The terms of payment agreed in this contract are themselves confidential and may not be revealed to competitors.
The Licensee shall store the algorithm in encrypted form and limit access to named engineers.
The parties shall treat the existence and content of their negotiations as strictly private.
The Contractor shall ensure that its subcontractors sign a non-disclosure undertaking before receiving any technical data.
Information marked as secret keeps that status even when it is later discussed orally in a meeting.
The Agency may not mention the campaign to the press until the Client has released it.
Nothing told to the mediator shall be passed on to the other side without permission.
The Tenant shall not disclose the rent to neighbouring occupiers or to their advisers.
The recipient acknowledges that an unauthorised leak of the know-how would harm the owner irreparably.
Personal data of patients shall be pseudonymised and never passed outside the research team.
Directors shall keep board papers private and return them when they leave office.
The bidder agrees not to disclose the contents of the data room to any person except its professional advisers.
All samples and test results exchanged under this letter shall be held in confidence by both laboratories.
The Distributor undertakes to guard the manufacturing recipe as a secret and to restrict copies to two persons.
Professional advisers who receive the information must be bound by an equivalent duty of secrecy.
The Host shall not record, copy or circulate anything that visitors see in the development area.
""",
    "termination": """
Either party may end this Agreement by giving the other ninety days' written notice.
The Customer may terminate at once if the Supplier commits a material breach and fails to cure it.
This contract expires automatically at the end of the third year unless the parties renew it.
The Landlord may bring the lease to an end if the Tenant abandons the premises.
On expiry the Contractor shall vacate the site and hand over all keys and passes.
The Company may dismiss the Consultant with immediate effect in the event of gross misconduct.
If either party becomes insolvent, the other may cancel the remaining deliveries without penalty.
The Licensee may withdraw from the agreement within fourteen days of signing it.
Termination does not affect rights that accrued before the end of the contract.
The Agreement shall continue for two years and then cease unless extended in writing.
Should the payment remain overdue for sixty days, the Seller is entitled to terminate the contract.
The Franchisor may revoke the franchise if the Franchisee closes the shop for more than ten days.
Notice to quit must be served at least six months before the end of a quarter.
The employment ends without further notice when the Employee reaches retirement age.
A change of control in the Distributor gives the Manufacturer a right to end the distribution agreement early.
The parties may dissolve the joint venture at any time by mutual written agreement.
If force majeure lasts longer than three months, either side may cancel this Agreement.
Clauses that by their nature should continue, such as those on secrecy, shall survive the end of the contract.
The Client may stop the engagement for convenience after the completion of each phase.
The trial subscription lapses after thirty days unless the User confirms it.
Upon cancellation the Agency shall transfer all pending work to its successor.
The Publisher may discontinue the series and thereby bring the author's commission to a close.
Repeated late delivery counts as a breach that entitles the Buyer to rescind the agreement.
Either partner may retire from the partnership by six months' notice to the others.
The Owner may end the management contract if occupancy falls below the agreed level for two seasons.
The appointment of the Agent shall cease on the day when the last unit has been sold.
""",
    "liability": """
The total liability of the Supplier under this Agreement shall not exceed the contract price.
Neither party is liable for loss of profit or any indirect or consequential damage.
The Contractor shall indemnify the Owner against all claims arising from defective workmanship.
Nothing in this Agreement limits responsibility for death or personal injury caused by negligence.
The Carrier shall be answerable for damage to the goods only up to a fixed sum per kilogram.
The Licensor accepts no responsibility for errors in results produced with the software.
The Tenant shall make good any damage that its visitors cause to the common areas.
The Seller shall hold the Buyer harmless from third-party claims of patent infringement.
Damages for delay are capped at five per cent of the value of the late goods.
The Consultant is responsible only for losses that result from its wilful misconduct or gross negligence.
The parties exclude all warranties implied by statute to the fullest extent possible.
The cap on damages does not apply to a breach of the confidentiality undertakings.
The Hotel is not responsible for valuables left in rooms or in parked vehicles.
Each party shall bear its own losses caused by an event beyond its reasonable control.
The Manufacturer shall compensate the Distributor for costs of any product recall due to faulty design.
No director shall be personally liable for the debts of the company.
The aggregate amount recoverable from the auditor is limited to three times its annual fee.
The Architect shall maintain insurance that covers claims for professional negligence.
The User bears the risk of any loss of data that could have been avoided by backups.
Joint tenants are jointly and severally liable for every breach of the lease.
The Operator shall reimburse the Municipality for fines imposed because of its pollution of the river.
The indemnity covers legal costs, settlements and judgments awarded against the Customer.
The Supplier shall not be liable for failures caused by equipment that the Customer provided.
Any claim for compensation must be brought within one year after the damage was discovered.
The Organiser disclaims all responsibility for accidents that occur during the voluntary excursion.
The Warehouse shall answer for theft only where its guards acted carelessly.
""",
    "payment": """
The Customer shall pay each invoice within thirty days of receiving it.
The rent is payable in advance on the first working day of every month.
Late amounts bear interest at four per cent above the base rate until settled.
The Buyer shall transfer a deposit of twenty per cent when placing the order.
All fees are stated without value added tax, which the Client shall bear in addition.
The Consultant shall receive a daily rate of six hundred pounds plus travel expenses.
The Licensee shall pay royalties of three per cent of net sales every quarter.
Invoices must show the order number and be sent to the accounts department by electronic mail.
The Employer shall pay the salary by bank transfer at the end of each calendar month.
The price shall be adjusted once a year in line with the consumer price index.
The Purchaser may withhold five per cent of each instalment as retention until final acceptance.
Amounts due on termination shall be settled within ten days after the final statement.
The Agent earns a commission of two per cent on every sale that it introduces.
The Client shall refund reasonable out-of-pocket costs against original receipts.
The subscription fee is charged yearly and is not refundable.
If an invoice is disputed, the undisputed part shall still be paid on time.
The Tenant shall contribute one third of the heating costs through a service charge.
The purchase price shall be paid in four equal instalments secured by a bank guarantee.
The Seller may set off sums that the Buyer owes it under other orders.
Payment shall be made in euros to the account named on the front page.
An early settlement discount of two per cent applies if the bill is cleared within a week.
The Author receives an advance of ten thousand crowns against future royalties.
The Owner shall reimburse the Contractor monthly for materials delivered to the site.
Bank charges and currency conversion fees are borne by the party that sends the money.
The annual maintenance charge amounts to fifteen per cent of the licence fee.
The Distributor shall remit the proceeds of each month less its agreed margin.
""",
    "governing_law": """
This Agreement is governed by the laws of England and Wales.
The courts of Vienna shall have exclusive jurisdiction over all disputes arising from this contract.
Any dispute shall be finally settled by arbitration in Stockholm before three arbitrators.
The United Nations convention on the international sale of goods does not apply.
The contract shall be construed in accordance with Dutch law, without regard to conflict rules.
Both parties submit to the non-exclusive jurisdiction of the Scottish courts.
The validity and interpretation of this lease shall be determined under the law of Portugal.
Claims about liability under this deed shall be decided according to the substantive law of Ireland.
The seat of arbitration shall be Singapore and the language shall be English.
Each party irrevocably waives any objection to proceedings in the courts of New York.
This licence and any non-contractual obligations connected with it are subject to German law.
The place of jurisdiction for merchants is the registered seat of the Seller.
Disputes about unpaid invoices shall be brought before the commercial court in Zurich.
The law of the country where the property lies governs the rights in it.
Mandatory consumer protection rules of the buyer's home state remain applicable.
The parties choose the law of Ontario as the proper law of this guarantee.
If the English version and a translation differ, the English version prevails before any tribunal.
A party that wants to sue must do so in the courts at the defendant's domicile.
The tribunal shall apply the legal rules of the State of Delaware to the merits.
This undertaking shall be read and enforced as a contract made under the laws of Norway.
The secrecy agreement, like all annexes, is subject to the law of Denmark.
Belgian law applies to this agreement, with the exclusion of its rules on conflict of laws.
Service of process may be effected on the agent appointed in the forum state.
Proceedings shall take place in Milan, and Italian procedural law shall apply.
The courts at the seat of the Licensor alone are competent to hear disputes under this licence.
Questions not settled by these terms shall be answered under the civil code of Quebec.
""",
}

VALIDATION = {
    "confidentiality": """
The auditor shall treat as private everything it learns about the Company's affairs during the inspection.
Neither firm may let outsiders see the prototype before the joint launch.
The recipient shall lock the files away and allow only cleared staff to read them.
The inventor's notebooks may be shown to patent attorneys, but to nobody else.
The duty not to disclose remains in force even after the last payment has been made.
""",
    "termination": """
The School may cancel the catering contract at the end of any term by one month's notice.
If the permit is not granted, either side may walk away from this Agreement.
The mandate comes to an end when the Client withdraws it in writing.
The agreement shall run for eighteen months, after which it ends without any declaration.
The Supplier may put an end to the contract if two invoices in a row stay unpaid.
""",
    "liability": """
The Installer shall pay compensation for harm that its staff negligently cause to the building.
In no event shall the Provider's obligation to pay damages go beyond the fees of the last year.
The Sponsor releases the Club from all claims arising out of cancelled matches.
The Courier does not answer for parcels that were badly packed by the sender.
The Partner shall defend and indemnify the University against lawsuits by participants.
""",
    "payment": """
The Hirer shall settle the rental charge before the vehicle leaves the yard.
The Translator invoices by the word and is paid at the end of the month.
A surcharge of ten per cent is added to bills that remain open after the due date.
The Seller shall credit the price of returned goods to the Buyer's account.
Half of the fee falls due on signature and the other half on delivery.
""",
    "governing_law": """
French law alone shall decide any question about the meaning of this deed.
All quarrels under these terms go to the district court of Hamburg.
The parties agree to refer their differences to a sole arbitrator sitting in Geneva.
This policy is to be interpreted according to the statutes of Queensland.
Neither party may start proceedings outside the courts of Northern Ireland.
""",
}

TEST = {
    "confidentiality": """
Whatever the Interpreter overhears at the meetings must stay between the participants.
The Buyer's engineers may inspect the blueprints, but may neither photograph nor circulate them.
Both hospitals promise to keep unpublished trial results from journalists and rival sponsors.
The Vendor's client database is a trade secret that the Processor may view solely to fix faults.
Even after the contract has ended, former staff must remain silent about the company's formulas.
Disclosure to insurers is permitted provided that they promise the same discretion.
No screenshots of the beta version may be posted online or passed to friends.
The price list is for the eyes of the Reseller only and must not reach its competitors.
The Archivist shall grant nobody access to sealed letters without the family's approval.
""",
    "termination": """
The Gym member can leave the contract at the end of each quarter by sending a letter.
Failure to obtain the licence within a year brings this Agreement to an end automatically.
The Charterer is free to cancel the voyage if the ship arrives more than five days late.
Persistent breaches of confidentiality allow the Principal to break off the agency without notice.
When the building works are finished, the temporary tenancy stops without any need for notice.
We may close your account and discontinue the service after warning you twice.
The Grower may rescind the supply agreement should the harvest be destroyed by hail.
Neither side may end the contract during the first two years except for serious cause.
The sponsorship shall not be renewed once the current season is over.
""",
    "liability": """
The Removal firm answers for broken furniture up to forty pounds for each item.
The Client shall shield the Photographer from any claim brought by persons shown in the pictures.
We do not accept blame for delays that the customs authorities cause.
Where both parties were at fault, the damage is divided between them in proportion.
The Engineer's exposure for mistakes in the calculations stops at the sum insured.
Parents must make up for windows or instruments that their children break.
The Platform shall not be held responsible for unpaid fees or false statements of its members.
The Surveyor owes no duty of care to strangers who rely on the report.
A breach of warranty entitles the Purchaser to recover its actual loss, but no punitive damages.
""",
    "payment": """
The Orchestra receives its honorarium on the evening of the concert, in cash or by cheque.
Tuition is due before the term starts, although families may spread it over ten months.
Ferry tickets must be bought in the harbour currency, and no credit is given.
The Brewer shall be paid per barrel at the tariff printed in the schedule.
Overdue accounts attract a monthly charge of one and a half per cent.
On completion of the roof the Builder may bill a further quarter of the price.
The Gardener's hourly wage rises by fifty cents every spring.
Sums owed after cancellation are to be wired within a fortnight.
The Publisher shall account to the Composer twice a year and send the balance with each statement.
""",
    "governing_law": """
Greek law applies, whatever the nationality of the passengers.
Actions against the Insurer can be brought only before the judges of Luxembourg.
The rules of the London maritime arbitrators shall govern any reference under this charter.
Both companies accept that Finnish statutes control the effect and meaning of this pledge.
Quarrels over the termination of this lease belong before the tribunals of Barcelona.
Should a disagreement persist, a panel in Hong Kong shall resolve it under the local arbitration ordinance.
This warranty shall be understood in the light of the legislation of New Zealand.
The forum for every lawsuit between the shareholders is the High Court in Dublin.
No foreign law, but only that of Iceland, is relevant to the present contract.
""",
}
