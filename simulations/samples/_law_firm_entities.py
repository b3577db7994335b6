"""Legal sentences of the law firm: invented parties, and sentences with slots, by split.

`{party}` is filled from the split's list, `{date}` from calendar days that no other split uses.
A line without slots is a sentence without entities.
"""

PARTIES = {
    "train": """
Abbotsmere Holdings Limited
Beckfoot Lane Properties Limited
Calder Finch LLP
Dunwray Estates LLC
Ellerthorpe Shipping Limited
Farnbrick Construction plc
Gannet Rock Fisheries Ltd
Hollowmead Farms Limited
Iverley Systems Inc
Jellicoe Sands Leisure Limited
Kirkwhistle Distillers Limited
Lindqvarn Maskin AB
Mossbeck Housing Association
Nordhelm Werkzeug GmbH
Oldsprake Foundry Limited
Peverdale Town Council
Quarrendon Vale Trust
Rusthaven Ports Authority
Stellingwerk Bouw BV
Thornleaze School Trustees
Undercliff Hotels Limited
Vermillac et Fils SA
Wychmoor Dairies Limited
Yaffleton Print Works Ltd
Zandermeer Logistiek BV
Ambleforth Bakers Limited
Brockhurst Quay Marina LLC
Cressingale Music Publishing Ltd
Duckmanton Steelworks plc
Eastweald Growers Cooperative
Fallowby Insurance plc
Grindleton Pumps Limited
Heronsgill Water Company
Ivythwaite Care Homes Limited
Kettlemoor Energy Partners LLP
Larksborough Borough Council
Maltravers Row Theatre Limited
Nunwick Aerospace Inc
Oxlode Seed Merchants
Pocklethorpe Garages Limited
Ridderström Papper AB
Saltergate Chemicals Limited
Tallowin and Brass LLP
Upwey Textile Mills Ltd
Vossendahl Optik GmbH
Wintermarsh Foundation
Braithfell Timber Limited
Coldstrop Mining plc
Dancersend Software Inc
Fosterby Vets LLP
""",
    "validation": """
Arrowdene Catering Limited
Blaxhall Towers LLC
Crumblewood Joinery Ltd
Dornbach Maschinen GmbH
Evenlode Bridge Charity
Fritham Nurseries Limited
Gribthorpe Cycles Inc
Hambledrake Surveyors LLP
Isfield Mere Golf Club
Knapwater Cement plc
Lydlinch Parish Council
Merrowdown Films Limited
Nostervold Rederi AS
""",
    "test": """
Aldwincle Forge Limited
Bourtonfield Airport plc
Chelwick Arms Brewery Ltd
Dillarstone Medical Inc
Elstrow Parish Trustees
Ferenczhazi Borok Kft
Guestling Thorn Nurseries
Hurstgale Power LLP
Inskipp Refrigeration Limited
Jacksprat Foods LLC
Kimmerford District Council
Leverhedge Textiles Limited
Murrendale Gas Company
Nethercott Dance Academy
Orsonville Transports SA
Piddlecombe Press Limited
Quethiock Slate plc
Rampisham Radio Ltd
Sandersfoot Housing Society
Trevarnick Tin Limited
Ubbeston Grain Merchants
Viborshøj Møbler AS
Wooldale Opera Foundation
Yoxgrove Analytics Inc
Zeelvaart Scheepswerf BV
Bickerstone Laundries Limited
Compton Sedge Vineyards
Dragley Tractors GmbH
Ensdon Carriers Limited
Frogpool Ceramics Ltd
Hinxhall Stationers LLP
Lanreath Lifeboat Charity
""",
}

SENTENCES = {
    "train": """
This Agreement is made on {date} between {party} and {party2}.
{party}, hereinafter the Seller, agrees to deliver the machines described in Schedule 2.
The lease granted by {party} commences on {date} and runs for ten years.
By letter of {date} the claimant gave notice of termination.
{party} assigned all its rights under the contract to {party2}.
The hearing was adjourned to {date} at the request of both sides.
In consideration of the loan, {party} charges the property in favour of the Lender.
Judgment was entered against {party} in the sum of forty thousand pounds.
The parties signed the settlement on {date} and withdrew all pending claims.
{party} shall indemnify {party2} against every loss caused by late delivery.
The option expires on {date} unless the Tenant exercises it in writing.
A deed of variation dated {date} replaced clause 7 of the original lease.
Between {date} and {date2} no rent was paid for the upper floor.
The shares in {party} were transferred to the Buyer at completion.
Counsel for {party} argued that the clause was void for uncertainty.
The Licensor is {party}, whose registered office is stated on the cover page.
On {date} {party} issued a purchase order for two hundred pumps.
The tribunal finds that {party} breached its duty of care toward the neighbours.
Notices to {party} must be sent by registered post to its head office.
The guarantee given by {party} on {date} remains in full force.
The franchise agreement with {party} contains no obligation to renovate the shop.
The claim form was served on {date}, one day before the limitation period ended.
{party} and {party2} have entered into a joint venture for the new terminal.
All invoices of {party} fall due within thirty days of receipt.
The Contractor, {party}, shall complete the works by {date} at the latest.
As of {date}, the outstanding balance stood at ninety thousand euros.
The witness stated that he had worked for {party} for eleven years.
The appeal brought by {party} is dismissed with costs.
This undertaking takes effect on {date} and binds the successors of {party}.
The Supplier warrants to {party} that the goods are free from defects.
The will executed on {date} revokes all earlier dispositions.
{party} was represented at the mediation by its finance director.
Under the distribution agreement of {date}, {party} may appoint sub-agents.
The insolvency administrator of {party} refused to perform the contract.
The trademark was registered on {date} in the name of {party}.
The deposit paid on {date} shall be returned to {party} without interest.
The option to purchase was granted to {party} for one pound.
Neither {party} nor its affiliates shall solicit employees of {party2}.
The judge ordered {party} to disclose the minutes of its board meetings.
The planning permission of {date} was quashed by the court.
Because {party} failed to appear on {date}, the court decided in its absence.
The data processing terms between the University and {party} form Annex C.
An injunction restraining {party} from selling the lamps was granted on {date}.
Witness the hands of the parties on {date}.
The Purchaser, {party2}, acquires the whole business of {party} as a going concern.
{party}: please countersign the enclosed copy and return it to us.
""",
    "train_without": """
The Tenant shall keep the interior of the premises in good repair.
Headings are for convenience only and do not affect interpretation.
No amendment is valid unless it is made in writing and signed by both sides.
Either side may appoint an expert to determine the market rent.
The Effective Date is defined in clause 1.3 of the Schedule.
The Seller gives no warranty about the suitability of the goods for export.
If any provision is invalid, the remaining provisions shall continue in force.
The court may extend the time limit on application by the defendant.
Goods travel at the risk of the Buyer from the moment of loading.
The arbitrator shall give reasons for the award within sixty days.
A waiver of one breach is not a waiver of later breaches.
The Employee shall devote the whole of her working time to the Company.
Schedule 4 contains the plans, the price list and the form of certificate.
The Landlord may enter on reasonable notice to inspect the roof.
The burden of proof lies with the party that alleges fraud.
The Trustees may invest the fund in land or in government bonds.
The Licensee shall not sublicense the software without prior consent.
Each counterpart is an original, and all of them form one instrument.
""",
    "validation": """
The sale contract of {date} names {party} as the vendor of the mill.
{party} undertakes to vacate the warehouse no later than {date}.
Proceedings against {party} were stayed pending the expert's report.
With effect from {date}, the rent rises to nine hundred pounds a month.
The consortium of {party} and {party2} won the tender for the footbridge.
The notary recorded on {date} that the sum had been received in full.
{party} denies that any oral agreement was reached with {party2}.
The award was published on {date} and became final four weeks later.
The covenant benefits {party} and every later owner of the field.
""",
    "validation_without": """
The Borrower may not create any further charge over the factory.
Time is of the essence with regard to every obligation in this deed.
The expert acts as adviser and not as arbitrator.
""",
    "test": """
Dated {date}, the memorandum sets out how {party} will fund the museum.
It is common ground that {party} never received the second shipment.
Having heard both sides on {date}, the master struck out the defence.
The hall was rented from {party} for a single weekend.
Our client, {party}, rejects the allegation in your letter of {date}.
Completion took place on {date}, when the keys were handed over.
{party} sold the orchard to {party2} subject to a right of way.
The freehold is vested in {party}, and the mortgage has been redeemed.
From {date} until {date2} the licence was suspended by the regulator.
The articles were adopted by special resolution on {date}.
Title to the paintings passes to {party} only upon full payment.
The respondent, {party}, admitted liability shortly before the trial.
We act for {party} in the dispute with {party2} over the party wall.
Any appeal must be lodged before {date} with the registry.
The bond issued by {party} matures on {date}.
A winding-up petition was presented against {party} by its bank.
The easement was granted to {party} by a conveyance of {date}.
The inspectors of {party2} may visit the plant of {party} without warning.
Probate was granted on {date} to the two executors.
The fire of {date} destroyed the barn that {party} had insured.
As guarantor, {party} is bound even if the principal debt is void.
The offer by {party} lapsed when it was not accepted by {date}.
For the avoidance of doubt, {party} is not an agent of {party2}.
The collective agreement concluded with {party} covers night work as well.
Costs were awarded to {party}, to be assessed if not agreed.
The patent application filed on {date} lists three inventors.
Minutes of the meeting held on {date} were sent to {party}.
The arbitrators declined jurisdiction over the counterclaim of {party}.
Until {date} the tenants may object to the new service charge.
What {party} calls a gift was in truth a loan, the claimant says.
The crane hired from {party} collapsed on the second day of use.
Interest runs at four per cent from {date} on the unpaid half.
A caution in favour of {party} was entered in the register on {date}.
Having merged with {party2}, {party} is now the sole creditor.
The board resolution of {date} was never shown to the minority members.
Three weeks before {date} the seller withdrew from the bargain.
{party} must remove the fence or face a daily penalty.
This power of attorney ends on {date} or upon revocation, if earlier.
The sureties released {party} from its promise to rebuild the mill.
Whether {party} acted in good faith is a question for the jury.
""",
    "test_without": """
Rain and frost do not entitle the Builder to more time.
The Guest may bring one dog if the Host has agreed beforehand.
Clause 14.2 overrides any conflicting term in the Appendix.
The executor must file an inventory within three months.
A minor can avoid the bargain when reaching full age.
The Carrier shall deliver the boxes to the back door.
""",
}
